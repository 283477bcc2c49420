"""Bypass: when drafting does not pay, rounds run plain, and now and then drafting is tried again.

The yield of both ways is measured where it counts, in emitted tokens per millisecond of wall time: drafting by
its own rounds (draft wait and verdict, as pipelining leaves them), plain decoding by the verdict's time as it
would be without a block. Whatever makes drafting poor (acceptance, a saturated or distant draft tier, a target
batch that is bound by arithmetic) shows there, and whatever makes it better again shows in the next trial.
Trials get rarer while they fail, but never end.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from adasd.rounds import RoundCompleted

DECAY = 0.95
"""Per round with a block: evidence fades with a memory of 20 rounds."""
MIN_EVIDENCE = 6.0
"""Faded rounds before the bypass may begin."""
MARGIN = 0.05
"""Relative gain that a change of mind needs, both ways."""
TRIAL_ROUNDS = 6
FIRST_WAIT, LONGEST_WAIT = 16, 256
"""Plain rounds before the next trial; doubled by every trial that fails or is regretted."""
REGRET_ROUNDS = 100
"""Drafting again is regretted if the bypass begins again within so many rounds."""


@dataclass(frozen=True, slots=True)
class Bypass:
    """What is known, and whether drafting is on."""

    drafts: bool = True
    num_rounds: float = 0.0  # faded count of rounds with a block
    tokens: float = 0.0  # faded, emitted by them
    ms: float = 0.0  # faded, taken by them
    wait: int = FIRST_WAIT  # plain rounds between trials
    waited: int = 0  # plain rounds since the last trial
    trial: int = 0  # rounds that the trial under way still has
    num_drafting: int = REGRET_ROUNDS  # rounds with a block since drafting began again

    @property
    def may_draft(self) -> bool:
        """May the next round draft?"""
        return self.drafts or self.trial > 0 or self.waited >= self.wait

    def learn(self, done: RoundCompleted, plain_ms: float | None) -> Bypass:
        """Take in a round; ``plain_ms`` is what a verdict without a block takes, None if unknown."""
        if done.num_drafted == 0:
            return self if self.drafts else replace(self, waited=self.waited + 1)
        seen = replace(
            self,
            num_rounds=DECAY * self.num_rounds + 1,
            tokens=DECAY * self.tokens + done.verdict.num_accepted + 1,
            ms=DECAY * self.ms + done.draft_ms + done.verify_ms,
        )
        if plain_ms is None or plain_ms <= 0:
            return seen
        return seen._weigh_drafting(plain_ms) if self.drafts else seen._weigh_trial(plain_ms, self)

    def _gain(self, plain_ms: float) -> float:
        """Tokens per millisecond with drafting over without."""
        return plain_ms * self.tokens / max(self.ms, 1e-6)

    def _weigh_drafting(self, plain_ms: float) -> Bypass:
        if self.num_rounds < MIN_EVIDENCE or self._gain(plain_ms) >= 1 - MARGIN:
            return replace(self, num_drafting=self.num_drafting + 1)
        wait = longer(self.wait) if self.num_drafting < REGRET_ROUNDS else FIRST_WAIT
        return replace(self, drafts=False, wait=wait, waited=0, trial=0)

    def _weigh_trial(self, plain_ms: float, before: Bypass) -> Bypass:
        """A trial begins without the evidence that began the bypass."""
        if not before.may_draft:
            return before  # was under way when the bypass began
        if before.trial == 0:
            fresh_tokens = self.tokens - DECAY * before.tokens
            fresh_ms = self.ms - DECAY * before.ms
            return replace(self, num_rounds=1, tokens=fresh_tokens, ms=fresh_ms, trial=TRIAL_ROUNDS - 1)
        left = self.trial - 1
        if left:
            return replace(self, trial=left)
        if self._gain(plain_ms) > 1 + MARGIN:
            return replace(self, drafts=True, waited=0, trial=0, num_drafting=0)
        return replace(self, wait=longer(self.wait), waited=0, trial=0)


def longer(wait: int) -> int:
    """The wait after one more disappointment."""
    return min(2 * wait, LONGEST_WAIT)
