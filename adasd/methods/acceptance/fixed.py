"""Acceptance by one constant rule, as most of the published ones are."""

from __future__ import annotations

from dataclasses import dataclass

from adasd.methods.policy import RoundOutlook
from adasd.rounds import Relax, RoundCompleted


@dataclass(frozen=True, slots=True)
class Fixed:
    """Learns nothing."""

    rule: Relax
    name: str
    summary: str
    source: str
    needs_distances: bool = False
    only_sampled: bool = False
    processed: bool = False
    alone: bool = False

    def start(self, shared: None) -> None:
        return None

    def decide(self, state: None, outlook: RoundOutlook) -> Relax | None:
        return self.rule

    def learn(self, state: None, round: RoundCompleted) -> None:
        return None
