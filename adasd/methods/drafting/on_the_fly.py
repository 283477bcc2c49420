"""On-the-fly adaptation of the draft's length (Liu, Park and Shen, ACL 2025): by goodput, or by a finite-state machine.

We know the paper's abstract and the names of its parts; the estimators are our reconstruction (docs/algorithm.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import MappingProxyType

from adasd.methods.drafting.goodput import rates
from adasd.methods.policy import RoundOutlook
from adasd.rounds import RoundCompleted, StopRule


@dataclass(frozen=True, slots=True)
class WindowState:
    """The newest rounds with a block, as (accepted, drafted)."""

    rounds: tuple[tuple[int, int], ...] = ()

    @property
    def acceptance(self) -> float | None:
        """Maximum-likelihood chance of acceptance per token; None before the first round with a block.

        A block that was accepted in full is censored: it says that its tokens were accepted and nothing about
        the one behind. So alpha = sum V / (sum V + number of rounds with a rejection). Accepted over drafted
        would count tokens that nobody judged as failures.
        """
        accepted = sum(num_accepted for num_accepted, _ in self.rounds)
        rejections = sum(num_accepted < num_drafted for num_accepted, num_drafted in self.rounds)
        return accepted / (accepted + rejections) if self.rounds else None


@dataclass(frozen=True, slots=True)
class OnTheFly:
    """argmax over k >= 1 of (1 - alpha^(k+1)) / ((1 - alpha) (verify + k draft)), by measured times.

    Its lengths follow measured times, so its blocks differ from run to run.
    """

    initial: int = 5  # tokens, until something is measured
    window: int = 64  # rounds; 16 are too few: the estimate's deviation at 0.8 is 0.057 there and 0.028 here
    default_block: int | None = None
    name: str = "on-the-fly"
    summary: str = "the length of most goodput by the windowed acceptance estimate and measured times"
    source: str = "Liu et al., On-the-Fly Adaptive Draft Window, ACL 2025"

    def start(self, shared: WindowState | None) -> WindowState:
        return shared or WindowState()

    def decide(self, state: WindowState, outlook: RoundOutlook) -> StopRule:
        acceptance = state.acceptance
        if acceptance is None or not outlook.has_times:
            return StopRule(min(self.initial, outlook.max_draft_tokens))
        survival = tuple(acceptance**k for k in range(1, outlook.max_draft_tokens + 1))
        rate = rates(replace(outlook, survival=survival))
        return StopRule(max(range(1, len(rate)), key=rate.__getitem__))

    def learn(self, state: WindowState, round: RoundCompleted) -> WindowState:
        if not round.num_drafted:
            return state
        newest = (round.verdict.num_accepted, round.num_drafted)
        return WindowState((*state.rounds, newest)[-self.window :])


def next_length(round: RoundCompleted) -> int:
    """The finite-state machine: one more token after a full acceptance, else one less, at least 1."""
    full = round.verdict.num_accepted == round.num_drafted
    return round.num_drafted + 1 if full else max(1, round.num_drafted - 1)


@dataclass(frozen=True, slots=True)
class OnTheFlyFsm:
    """State: the next length in tokens."""

    initial: int = 5
    default_block: int | None = None
    name: str = "on-the-fly-fsm"
    summary: str = "length + 1 after a full acceptance, - 1 otherwise"
    source: str = "finite-state variant of On-the-Fly, ACL 2025"

    def start(self, shared: int | None) -> int:
        return shared or self.initial

    def decide(self, state: int, outlook: RoundOutlook) -> StopRule:
        return StopRule(min(state, outlook.max_draft_tokens))

    def learn(self, state: int, round: RoundCompleted) -> int:
        return next_length(round) if round.num_drafted else state


@dataclass(frozen=True, slots=True)
class CachedState:
    """Lengths that worked, by the token that they followed."""

    lengths: MappingProxyType[int, int] = field(default_factory=lambda: MappingProxyType({}))
    length: int = 5  # of the plain machine, for tokens never seen
    behind: int | None = None  # token that the next block follows; None: the prompt's last, which is not told


@dataclass(frozen=True, slots=True)
class OnTheFlyCached:
    """The finite-state machine with one state per token that a block follows.

    Where a text is predictable is often a matter of the last token (after a keyword, after a comma), so what
    the machine learned behind a token serves when that token comes again.
    """

    initial: int = 5
    memory: int = 1024  # tokens; the one that was used longest ago is forgotten first
    default_block: int | None = None
    name: str = "on-the-fly-cached"
    summary: str = "on-the-fly-fsm with the length remembered by the token that a block follows"
    source: str = "cache-enabled finite-state variant of On-the-Fly, ACL 2025"

    def start(self, shared: CachedState | None) -> CachedState:
        return replace(shared, behind=None) if shared else CachedState(length=self.initial)

    def decide(self, state: CachedState, outlook: RoundOutlook) -> StopRule:
        length = state.length if state.behind is None else state.lengths.get(state.behind, state.length)
        return StopRule(min(length, outlook.max_draft_tokens))

    def learn(self, state: CachedState, round: RoundCompleted) -> CachedState:
        behind = round.verdict.next_token
        if not round.num_drafted:
            return replace(state, behind=behind)
        length = next_length(round)
        if state.behind is None:
            return replace(state, length=length, behind=behind)
        lengths = {token: known for token, known in state.lengths.items() if token != state.behind}
        lengths[state.behind] = length
        if len(lengths) > self.memory:
            del lengths[next(iter(lengths))]
        return CachedState(MappingProxyType(lengths), length, behind)
