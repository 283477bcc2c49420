"""Figures of a finished answer as JSON: usage, effective speculation, and metrics in vLLM's shape.

``metrics.speculative_decoding`` must add up, or benchmark clients drop it: the histogram is dense, has
``num_spec_tokens + 1`` entries, sums to ``num_spec_steps``, and its sum weighted by the index is
``num_accepted_draft_tokens``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from adasd.results import Complete, SpeculationReport, TokenKind, Usage
from services.gateway.http.order import Order


def usage_json(usage: Usage) -> dict[str, Any]:
    """OpenAI's usage object."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def usage_of(order: Order, ends: Sequence[Complete]) -> Usage:
    """Usage of a whole order: answers add up; each prompt and the cached tokens of its first answer count once."""
    return Usage(
        order.num_prompt_tokens,
        0 if order.only_prompt else sum(end.usage.completion_tokens for end in ends),
        sum(end.usage.cached_tokens for end in ends[:: order.n]),
    )


def reports_json(order: Order, ends: Sequence[Complete]) -> dict[str, Any]:
    """Usage, speculation and metrics. Metrics describe one answer, so they are null for several."""
    report, usage = ends[0].speculation, usage_json(usage_of(order, ends))
    if order.prediction_tokens:
        usage["completion_tokens_details"] = _prediction_tokens(ends)
    return {
        "usage": usage,
        "speculation": asdict(report.effective),
        "metrics": metrics_json(report, order.provenance) if len(ends) == 1 else None,
    }


def _prediction_tokens(ends: Sequence[Complete]) -> dict[str, int]:
    """Drafted tokens under OpenAI's names for predicted outputs."""
    accepted = sum(end.speculation.num_accepted_tokens for end in ends)
    drafted = sum(end.speculation.num_draft_tokens for end in ends)
    return {"accepted_prediction_tokens": accepted, "rejected_prediction_tokens": drafted - accepted}


def metrics_json(report: SpeculationReport, by_round: bool = False) -> dict[str, Any]:
    """The response extension ``metrics``; ``speculative_decoding`` is null if nothing was drafted.

    ``by_round`` lists the length of every block and how much of it was accepted, for callers that asked where each
    token came from.
    """
    return {
        "speculative_decoding": _vllm_json(report),
        "adasd": _adasd_json(report) | _rounds(report, by_round),
    }


def _rounds(report: SpeculationReport, by_round: bool) -> dict[str, Any]:
    if not by_round:
        return {}
    drafted, accepted = report.drafted_per_round, report.accepted_per_round
    return {"drafted_per_round": list(drafted), "accepted_per_round": list(accepted)}


def _vllm_json(report: SpeculationReport) -> dict[str, Any] | None:
    steps = list(zip(report.drafted_per_round, report.accepted_per_round, strict=True))
    if not steps:
        return None
    cap = max(report.effective.max_draft_tokens or 0, *report.drafted_per_round)
    num_drafted, num_accepted = (sum(column) for column in zip(*steps, strict=True))
    by_len = {
        drafted: _histogram([a for d, a in steps if d == drafted], drafted)
        for drafted in sorted(set(report.drafted_per_round))
    }
    return {
        "mean_acceptance_length": 1 + num_accepted / len(steps),
        "draft_acceptance_rate": num_accepted / num_drafted if num_drafted else 0.0,
        "acceptance_histogram": _histogram(report.accepted_per_round, cap),
        "acceptance_histogram_by_draft_length": {str(length): counts for length, counts in by_len.items()},
        "num_spec_steps": len(steps),
        "num_accepted_draft_tokens": num_accepted,
        "num_draft_tokens": num_drafted,
        "num_spec_tokens": cap,
    }


def _histogram(values: tuple[int, ...] | list[int], largest: int) -> list[int]:
    counts = [0] * (largest + 1)
    for value in values:
        counts[value] += 1
    return counts


def _adasd_json(report: SpeculationReport) -> dict[str, Any]:
    counts = dict(report.kinds)
    return {
        "generation_threshold": _finite(report.generation_threshold),
        "acceptance_threshold": _finite(report.acceptance_threshold),
        "tokens": {kind.value: counts.get(kind, 0) for kind in TokenKind},
        "drafts_used": list(report.drafts_used),
        "num_rounds": report.num_rounds,
        "extra_acceptance": counts.get(TokenKind.RELAXED, 0),
        "distortion": report.distortion,
        "draft_ms": report.draft_ms,
        "verify_ms": report.verify_ms,
        "network_ms": report.network_ms,
        "draft_lost": report.draft_lost,
        "target_lost": report.target_lost,
        "blocks_ahead": report.num_ahead,
        "blocks_ahead_used": report.num_ahead_used,
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
