"""Drafting stops at a token of which the draft itself is not sure."""

from __future__ import annotations

from dataclasses import dataclass, field

from adasd.methods.adaptive_threshold import Drift, DriftState
from adasd.methods.policy import RoundOutlook
from adasd.rounds import RoundCompleted, StopRule


@dataclass(frozen=True, slots=True)
class Confidence:
    """Stops iff max q < floor, a constant; 0.4 as in transformers (``assistant_confidence_threshold``)."""

    floor: float = 0.4  # probability
    default_block: int | None = None
    name: str = "confidence"
    summary: str = "stops once the draft's largest probability is below 0.4"
    source: str = "Hugging Face transformers, assistant_confidence_threshold"

    def start(self, shared: None) -> None:
        return None

    def decide(self, state: None, outlook: RoundOutlook) -> StopRule:
        return StopRule(outlook.max_draft_tokens, confidence_floor=self.floor)

    def learn(self, state: None, round: RoundCompleted) -> None:
        return None


@dataclass(frozen=True, slots=True)
class DynamicConfidence:
    """Stops iff max q < lambda, moved as in AdaEDL: the rival "max-conf" of arXiv:2410.18351."""

    drift: Drift = field(default_factory=Drift)
    default_block: int | None = None
    name: str = "confidence-dynamic"
    summary: str = "a probability floor that moves to keep 90 % accepted"
    source: str = "max-conf in AdaEDL, arXiv:2410.18351"

    def start(self, shared: DriftState | None) -> DriftState:
        return self.drift.start(shared)

    def decide(self, state: DriftState, outlook: RoundOutlook) -> StopRule:
        return StopRule(outlook.max_draft_tokens, confidence_floor=state.bound)

    def learn(self, state: DriftState, round: RoundCompleted) -> DriftState:
        return self.drift.learn(state, round)
