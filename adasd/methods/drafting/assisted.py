"""The length of transformers' assisted generation: a heuristic, or a confidence threshold updated by a ROC curve."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import ClassVar

from adasd.config import setting
from adasd.methods.policy import DraftingMethod, RoundOutlook
from adasd.methods.registry import register_drafting
from adasd.rounds import RoundCompleted, StopRule

MISS_COST = 3.0
"""Cost of stopping before a token that would have been accepted, in rejected tokens."""
MIN_PROBS = 6
"""Judged tokens before the threshold is updated."""
MEMORY = 1024
"""Judged tokens after which the oldest are forgotten; transformers keeps all of a request's."""


class Schedule(StrEnum):
    """``num_assistant_tokens_schedule``."""

    HEURISTIC = "heuristic"  # heuristic_transient: two tokens more after a full acceptance, else one less
    CONSTANT = "constant"  # one length, and drafting stops below a confidence that follows a ROC curve


@dataclass(frozen=True, slots=True)
class AssistedState:
    """The next length in tokens; judged tokens as (largest probability of the draft, whether it was accepted)."""

    length: int
    threshold: float
    judged: tuple[tuple[float, bool], ...] = ()


@register_drafting
@dataclass(frozen=True, slots=True)
class Assisted(DraftingMethod[AssistedState]):
    """Every request starts from nothing, as in transformers. Uses the draft's largest probability as its token's."""

    schedule: Schedule = setting(
        Schedule.HEURISTIC, "heuristic: length + 2, - 1; constant: length and confidence"
    )
    initial: int = setting(0, "tokens; 0 is 5 for the heuristic and 20 for constant", low=0)
    threshold: float = setting(0.4, "confidence of schedule constant at the start", low=0, high=1)
    name: ClassVar[str] = "assisted"
    summary: ClassVar[str] = (
        "length + 2 after a full acceptance, - 1 otherwise; or a confidence updated by ROC"
    )
    source: ClassVar[str] = "Hugging Face transformers, assisted generation (num_assistant_tokens_schedule)"

    def start(self, shared: AssistedState | None) -> AssistedState:
        return AssistedState(
            self.initial or (5 if self.schedule is Schedule.HEURISTIC else 20), self.threshold
        )

    def decide(self, state: AssistedState, outlook: RoundOutlook) -> StopRule:
        floor = 0.0 if self.schedule is Schedule.HEURISTIC else state.threshold
        return StopRule(min(state.length, outlook.max_draft_tokens), confidence_floor=floor)

    def learn(self, state: AssistedState, round: RoundCompleted) -> AssistedState:
        if round.drafted is None or not round.num_drafted:
            return state
        num_accepted, num_drafted = round.verdict.num_accepted, round.num_drafted
        if self.schedule is Schedule.HEURISTIC:
            # From the drafted length: otherwise it would grow without limit under a cap.
            length = num_drafted + 2 if num_accepted == num_drafted else max(1, num_drafted - 1)
            return replace(state, length=length)
        new = [
            (prob, i < num_accepted) for i, prob in enumerate(round.drafted.confidences[: num_accepted + 1])
        ]
        judged = (*state.judged, *new)[-MEMORY:]
        return replace(state, judged=judged, threshold=best_threshold(judged, state.threshold))


def best_threshold(judged: tuple[tuple[float, bool], ...], before: float) -> float:
    """The probability that minimises the rates of false positives + 3 x false negatives; ``before`` without both."""
    num_stood = sum(stood for _, stood in judged)
    num_fell = len(judged) - num_stood
    if len(judged) < MIN_PROBS or not num_stood or not num_fell:
        return before
    best, cost = 1.0, MISS_COST  # nothing is drafted
    num_true = num_false = 0
    falling = sorted(judged, reverse=True)
    for (prob, stood), behind in zip(falling, [*falling[1:], (-1.0, False)], strict=True):
        num_true, num_false = num_true + stood, num_false + (not stood)
        here = num_false / num_fell + MISS_COST * (1 - num_true / num_stood)
        if prob != behind[0] and here < cost:
            best, cost = prob, here
    return best
