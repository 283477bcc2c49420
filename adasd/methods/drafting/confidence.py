"""Drafting stops at a token with low draft confidence."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from adasd.config import setting
from adasd.methods.adaptive_threshold import ThresholdState, learned, started
from adasd.methods.policy import DraftingMethod, RoundOutlook
from adasd.methods.registry import register_drafting
from adasd.rounds import RoundCompleted, StopRule


class FloorSchedule(StrEnum):
    """How the floor moves."""

    CONSTANT = "constant"  # as in transformers (``assistant_confidence_threshold``)
    DYNAMIC = "dynamic"  # as AdaEDL's lambda; the baseline "max-conf" of its paper


@register_drafting
@dataclass(frozen=True, slots=True)
class Confidence(DraftingMethod[ThresholdState]):
    """Stops iff max q < floor."""

    floor: float = setting(0.4, "probability; of schedule dynamic the first one", low=0, high=1)
    schedule: FloorSchedule = setting(FloorSchedule.CONSTANT, "constant, or moved to keep 90 % accepted")
    name: ClassVar[str] = "confidence"
    summary: ClassVar[str] = "stops once the draft's largest probability is below a floor, 0.4"
    source: ClassVar[str] = (
        "Hugging Face transformers; schedule dynamic: max-conf in AdaEDL, arXiv:2410.18351"
    )

    def start(self, shared: ThresholdState | None) -> ThresholdState:
        return started(shared, self.floor)

    def decide(self, state: ThresholdState, outlook: RoundOutlook) -> StopRule:
        return StopRule(outlook.max_draft_tokens, confidence_floor=state.threshold)

    def learn(self, state: ThresholdState, round: RoundCompleted) -> ThresholdState:
        return state if self.schedule is FloorSchedule.CONSTANT else learned(state, round)
