"""Drafting of a fixed length."""

from __future__ import annotations

from dataclasses import dataclass

from adasd.methods.policy import RoundOutlook
from adasd.rounds import RoundCompleted, StopRule


@dataclass(frozen=True, slots=True)
class Static:
    """Always drafts as many tokens as the request allows: 5 unless it says otherwise."""

    default_block: int | None = 5
    name: str = "static"
    summary: str = "fixed length: max_draft_tokens of the request, 5 if it names none"
    source: str = "Leviathan et al., arXiv:2211.17192"

    def start(self, shared: None) -> None:
        return None

    def decide(self, state: None, outlook: RoundOutlook) -> StopRule:
        return StopRule(outlook.max_draft_tokens)

    def learn(self, state: None, round: RoundCompleted) -> None:
        return None
