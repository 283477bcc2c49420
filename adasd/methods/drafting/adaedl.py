"""AdaEDL: drafting stops when an entropy-based lower bound on the acceptance chance falls below lambda."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from adasd.config import setting
from adasd.methods.adaptive_threshold import INITIAL, ThresholdState, learned, started
from adasd.methods.policy import DraftingMethod, RoundOutlook
from adasd.methods.registry import register_drafting
from adasd.rounds import RoundCompleted, StopRule


@register_drafting
@dataclass(frozen=True, slots=True)
class Adaedl(DraftingMethod[ThresholdState]):
    """Stops iff 1 - sqrt(gamma H) < lambda, which is H > (1 - lambda)^2 / gamma (arXiv:2410.18351)."""

    gamma: float = setting(0.2, "per nat; the published value", low=0.001, high=100)
    initial: float = setting(INITIAL, "lambda at the start; not published, ours", low=0, high=1)
    name: ClassVar[str] = "adaedl"
    summary: ClassVar[str] = "stops at an entropy bound on acceptance, kept at 90 % accepted"
    source: ClassVar[str] = "AdaEDL, arXiv:2410.18351"

    def start(self, shared: ThresholdState | None) -> ThresholdState:
        return started(shared, self.initial)

    def decide(self, state: ThresholdState, outlook: RoundOutlook) -> StopRule:
        return StopRule(outlook.max_draft_tokens, entropy_ceiling=(1 - state.threshold) ** 2 / self.gamma)

    def learn(self, state: ThresholdState, round: RoundCompleted) -> ThresholdState:
        return learned(state, round)
