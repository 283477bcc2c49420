"""The figures of a finished answer, as they go to the caller."""

from __future__ import annotations

from typing import Protocol

from adasd.requests import SpeculationOptions
from adasd.results import Complete, FinishReason, SpeculationReport, TokenKind, Usage
from adasd.session.state import Session


class Learned(Protocol):
    """What the controller has learned (adasd.control.controller.SessionController)."""

    @property
    def generation_threshold(self) -> float | None: ...
    @property
    def acceptance_threshold(self) -> float | None: ...
    @property
    def sources_used(self) -> tuple[str, ...]: ...
    @property
    def distortion(self) -> float: ...


def complete(session: Session, effective: SpeculationOptions, learned: Learned) -> Complete:
    """The last event of an answer that did not fail."""
    tally = session.tally
    return Complete(
        finish_reason=session.finish_reason or FinishReason.ERROR,
        usage=Usage(len(session.terms.prompt), session.num_emitted, tally.cached_tokens),
        speculation=SpeculationReport(
            effective=effective,
            num_rounds=tally.num_rounds,
            num_draft_rounds=len(tally.drafted_per_round),
            num_draft_tokens=sum(tally.drafted_per_round),
            num_accepted_tokens=sum(tally.accepted_per_round),
            accepted_per_round=tally.accepted_per_round,
            drafted_per_round=tally.drafted_per_round,
            kinds=tuple((kind, tally.of_kind(kind)) for kind in TokenKind),
            generation_threshold=learned.generation_threshold,
            acceptance_threshold=learned.acceptance_threshold,
            distortion=learned.distortion,
            draft_ms=tally.draft_ms,
            verify_ms=tally.verify_ms,
            network_ms=tally.network_ms,
            draft_lost=tally.draft_lost,
            target_lost=tally.target_lost,
            num_ahead=tally.num_ahead,
            num_ahead_used=tally.num_ahead_used,
            drafts_used=learned.sources_used,
        ),
        stop_match=session.stop_match,
    )
