"""Bypass: if drafting does not pay, rounds run plain, and drafting is tried again from time to time.

Both are measured in emitted tokens per millisecond of wall time: drafting by its own rounds (from one verdict to the
next, with lookahead as it is), plain decoding by the estimated time between two verdicts without a block. Every reason
for slow drafting (low acceptance, a saturated or distant draft tier, a compute-bound target batch) shows in this
number, and an improvement shows in the next trial. Trials become rarer while they fail, but never end. Without evidence
blocks begin short and double with every success, and a hopeless draft is dropped after a few rounds, so that the first
answer of a new process loses little.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from adasd.rounds import RoundCompleted

DECAY = 0.95
"""Per round with a block: a memory of 20 rounds."""
MIN_EVIDENCE = 6.0
"""Decayed number of rounds before the bypass may begin."""
MARGIN = 0.05
"""Relative gain needed to switch, in both directions."""
HOPELESS, HOPELESS_ROUNDS = 0.2, 2
"""At a relative loss like this, so many rounds in a row without an accepted token are enough."""
FIRST_BLOCK = 2
"""Most tokens of a block without evidence."""
TRIAL_ROUNDS = 6
FIRST_WAIT, LONGEST_WAIT = 16, 256
"""Plain rounds before the next trial; doubled if a trial fails or its success does not last."""
REGRET_ROUNDS = 100
"""A successful trial did not last if the bypass begins again within this many rounds."""


@dataclass(frozen=True, slots=True)
class Bypass:
    """The measured yields, and whether drafting is on."""

    drafts: bool = True
    num_rounds: float = 0.0  # decayed count of rounds with a block
    tokens: float = 0.0  # decayed sum of their emitted tokens
    ms: float = 0.0  # decayed sum of their wall times
    wait: int = FIRST_WAIT  # plain rounds between trials
    waited: int = 0  # plain rounds since the last trial
    trial: int = 0  # rounds left in the current trial
    num_drafting: int = REGRET_ROUNDS  # rounds with a block since drafting began again
    longest: int = FIRST_BLOCK  # tokens per block while there is little evidence
    num_vain: int = 0  # rounds in a row without an accepted token

    @property
    def may_draft(self) -> bool:
        """Whether the next round may draft."""
        return self.drafts or self.trial > 0 or self.waited >= self.wait

    def cap(self, max_tokens: int) -> int:
        """Tokens that the next block may have, of ``max_tokens``."""
        return (
            max_tokens if self.drafts and self.num_rounds >= MIN_EVIDENCE else min(max_tokens, self.longest)
        )

    def learn(
        self,
        done: RoundCompleted,
        plain_ms: float | None,
        margin: float = MARGIN,
        patience: int = HOPELESS_ROUNDS,
    ) -> Bypass:
        """Learn from a round; ``plain_ms`` is the time of a token without drafting, None if unknown.

        ``margin``: relative loss at which drafting ends. ``patience``: vain rounds in a row after which it is hopeless.
        """
        if done.num_drafted == 0:
            return self if self.drafts else replace(self, waited=self.waited + 1)
        seen = replace(
            self,
            num_rounds=DECAY * self.num_rounds + 1,
            tokens=DECAY * self.tokens + done.verdict.num_accepted + 1,
            ms=DECAY * self.ms + done.draft_ms + done.verify_ms + done.overhead_ms,
            longest=max(self.longest, 2 * (done.verdict.num_accepted + 1)),
            num_vain=0 if done.verdict.num_accepted else self.num_vain + 1,
        )
        if plain_ms is None or plain_ms <= 0:
            return seen
        if self.drafts:
            return seen._weigh_drafting(plain_ms, margin, patience)
        return seen._weigh_trial(plain_ms, self, patience)

    def _gain(self, plain_ms: float) -> float:
        """Tokens per millisecond with drafting, divided by those of plain decoding."""
        return plain_ms * self.tokens / max(self.ms, 1e-6)

    def _is_hopeless(self, plain_ms: float, patience: int) -> bool:
        return self.num_vain >= patience and self._gain(plain_ms) < 1 - HOPELESS

    def _weigh_drafting(self, plain_ms: float, margin: float, patience: int) -> Bypass:
        is_clear = self.num_rounds >= MIN_EVIDENCE or self._is_hopeless(plain_ms, patience)
        if not is_clear or self._gain(plain_ms) >= 1 - margin:
            return replace(self, num_drafting=self.num_drafting + 1)
        wait = longer(self.wait) if self.num_drafting < REGRET_ROUNDS else FIRST_WAIT
        return replace(self, drafts=False, wait=wait, waited=0, trial=0, longest=FIRST_BLOCK)

    def _weigh_trial(self, plain_ms: float, before: Bypass, patience: int) -> Bypass:
        """A trial starts without the evidence that began the bypass."""
        if not before.may_draft:
            return before  # this round had started before the bypass began
        if before.trial == 0:
            fresh_tokens = self.tokens - DECAY * before.tokens
            fresh_ms = self.ms - DECAY * before.ms
            vain = int(self.num_vain > 0)
            fresh = replace(self, num_rounds=1, tokens=fresh_tokens, ms=fresh_ms, num_vain=vain)
            return replace(fresh, trial=TRIAL_ROUNDS - 1)
        left = self.trial - 1
        if left and not self._is_hopeless(plain_ms, patience):
            return replace(self, trial=left)
        if self._gain(plain_ms) > 1 + MARGIN:
            return replace(self, drafts=True, waited=0, trial=0, num_drafting=0)
        return replace(self, wait=longer(self.wait), waited=0, trial=0, longest=FIRST_BLOCK)


def longer(wait: int) -> int:
    """The wait after one more failure."""
    return min(2 * wait, LONGEST_WAIT)
