"""On-the-fly adaptation of the draft's length (Liu, Park and Shen, ACL 2025): by goodput, or by a finite-state machine.

We know only the paper's abstract and the names of its parts; the estimators are our reconstruction
(docs/algorithm.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import ClassVar

from adasd.config import setting
from adasd.methods.drafting.goodput import rates
from adasd.methods.policy import DraftingMethod, RoundOutlook
from adasd.methods.registry import register_drafting
from adasd.rounds import RoundCompleted, StopRule


class Variant(StrEnum):
    """How the next length follows from earlier rounds."""

    GOODPUT = "goodput"  # the length with the most tokens per millisecond, by measured times
    FSM = "fsm"  # one token more after a full acceptance, else one less
    CACHED = "cached"  # the same machine, with one state per token before the block


@dataclass(frozen=True, slots=True)
class LengthState:
    """The newest rounds with a block as (accepted, drafted), and the lengths by the token before the block."""

    rounds: tuple[tuple[int, int], ...] = ()
    length: int | None = None  # the machine's next length; None before the first round with a block
    lengths: MappingProxyType[int, int] = field(default_factory=lambda: MappingProxyType({}))
    behind: int | None = None  # token before the next block; None: the prompt's last, unknown here

    @property
    def acceptance(self) -> float | None:
        """Maximum-likelihood chance of acceptance per token; None before the first round with a block.

        A block accepted in full is a censored observation: it says nothing about the token that would follow.
        So alpha = sum V / (sum V + number of rounds with a rejection), V being the accepted tokens of a round.
        Accepted over drafted would count unjudged tokens as failures.
        """
        accepted = sum(num_accepted for num_accepted, _ in self.rounds)
        rejections = sum(num_accepted < num_drafted for num_accepted, num_drafted in self.rounds)
        return accepted / (accepted + rejections) if self.rounds else None


@register_drafting
@dataclass(frozen=True, slots=True)
class OnTheFly(DraftingMethod[LengthState]):
    """argmax over k >= 1 of (1 - alpha^(k+1)) / ((1 - alpha) (verify + k draft)), or a finite-state machine.

    How predictable a text is often depends on the last token (a keyword, a comma), so the cached machine reuses the
    length that it learned after the same token.
    """

    variant: Variant = setting(Variant.GOODPUT, "goodput, or a finite-state machine without or with a cache")
    initial: int = setting(5, "tokens, until something is known", low=1)
    # 16 rounds are too few: at alpha = 0.8 the estimate's standard deviation is 0.057, with 64 rounds 0.028
    window: int = setting(64, "rounds that goodput looks back", low=1, high=65536)
    memory: int = setting(
        1024, "tokens that the cache tells apart; the one longest unused is forgotten", low=1, high=65536
    )
    name: ClassVar[str] = "on-the-fly"
    summary: ClassVar[str] = "the length of most goodput by windowed acceptance and measured times"
    source: ClassVar[str] = "Liu et al., On-the-Fly Adaptive Draft Window, ACL 2025"

    def start(self, shared: LengthState | None) -> LengthState:
        return replace(shared, behind=None) if shared else LengthState()

    def decide(self, state: LengthState, outlook: RoundOutlook) -> StopRule:
        return StopRule(min(self._length(state, outlook), outlook.max_draft_tokens))

    def _length(self, state: LengthState, outlook: RoundOutlook) -> int:
        if self.variant is not Variant.GOODPUT:
            length = state.length or self.initial
            return length if state.behind is None else state.lengths.get(state.behind, length)
        acceptance = state.acceptance
        if acceptance is None or not outlook.has_times:
            return self.initial
        survival = tuple(acceptance**k for k in range(1, outlook.max_draft_tokens + 1))
        rate = rates(replace(outlook, survival=survival))
        return max(range(1, len(rate)), key=rate.__getitem__)

    def learn(self, state: LengthState, round: RoundCompleted) -> LengthState:
        behind = round.verdict.next_token
        if not round.num_drafted:
            return replace(state, behind=behind)
        num_accepted, num_drafted = round.verdict.num_accepted, round.num_drafted
        match self.variant:
            case Variant.GOODPUT:
                return LengthState((*state.rounds, (num_accepted, num_drafted))[-self.window :])
            case Variant.FSM:
                return LengthState(length=next_length(round))
            case Variant.CACHED:
                return LengthState(
                    (), next_length(round), self._remembered(state, next_length(round)), behind
                )

    def _remembered(self, state: LengthState, length: int) -> MappingProxyType[int, int]:
        if state.behind is None:
            return state.lengths
        lengths = {token: known for token, known in state.lengths.items() if token != state.behind}
        lengths[state.behind] = length
        if len(lengths) > self.memory:
            del lengths[next(iter(lengths))]
        return MappingProxyType(lengths)


def next_length(round: RoundCompleted) -> int:
    """The finite-state machine: one more token after a full acceptance, else one less, at least 1."""
    full = round.verdict.num_accepted == round.num_drafted
    return round.num_drafted + 1 if full else max(1, round.num_drafted - 1)
