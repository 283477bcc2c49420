"""Blocks of a fixed length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from adasd.methods.policy import DraftingMethod, RoundOutlook, Stateless
from adasd.methods.registry import register_drafting
from adasd.rounds import StopRule


@register_drafting
@dataclass(frozen=True, slots=True)
class Static(Stateless, DraftingMethod[None]):
    """Always drafts the request's ``max_draft_tokens``, 5 by default."""

    default_block: ClassVar[int | None] = 5
    name: ClassVar[str] = "static"
    summary: ClassVar[str] = "fixed length: max_draft_tokens of the request, 5 if it names none"
    source: ClassVar[str] = "Leviathan et al., arXiv:2211.17192"

    def decide(self, state: None, outlook: RoundOutlook) -> StopRule:
        return StopRule(outlook.max_draft_tokens)
