"""AdaEDL: drafting stops where an entropy bound on the acceptance chance falls below lambda."""

from __future__ import annotations

from dataclasses import dataclass, field

from adasd.methods.adaptive_threshold import Drift, DriftState
from adasd.methods.policy import RoundOutlook
from adasd.rounds import RoundCompleted, StopRule


@dataclass(frozen=True, slots=True)
class Adaedl:
    """Stops iff 1 - sqrt(gamma H) < lambda, which is H > (1 - lambda)^2 / gamma (arXiv:2410.18351)."""

    gamma: float = 0.2  # per nat
    drift: Drift = field(default_factory=Drift)
    default_block: int | None = None
    name: str = "adaedl"
    summary: str = "stops at an entropy bound on acceptance, kept at 90 % accepted"
    source: str = "AdaEDL, arXiv:2410.18351"

    def start(self, shared: DriftState | None) -> DriftState:
        return self.drift.start(shared)

    def decide(self, state: DriftState, outlook: RoundOutlook) -> StopRule:
        return StopRule(outlook.max_draft_tokens, entropy_ceiling=(1 - state.bound) ** 2 / self.gamma)

    def learn(self, state: DriftState, round: RoundCompleted) -> DriftState:
        return self.drift.learn(state, round)
