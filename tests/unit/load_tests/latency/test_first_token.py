"""The stages of a first token from the spans of its request."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from load_tests.latency.first_token import Stages, medians, stages
from load_tests.latency.span_collector import Span

MS = 1_000_000


def span(
    name: str, start_ms: float, end_ms: float, events: dict[str, int] | None = None, **attributes: Any
) -> Span:
    named = {name.replace("__", "."): value for name, value in attributes.items()}
    return Span(name, "t", "s", "p", int(start_ms * MS), int(end_ms * MS), False, named, {}, events or {})


SPANS = [
    span("adasd.round", 15, 18),
    span("adasd.target.verify", 13, 14, adasd__compute_ms=9.9),  # a later one
    span("adasd.target.verify", 11, 12.5, adasd__compute_ms=1.25),
    span("chat pair", 7, 30, {"adasd.target_slot": 10 * MS}, adasd__session="s"),
    span("adasd.prefill", 7, 13),
]


def test_each_stage_lies_between_two_stamps_and_all_add_up():
    found = stages(2 * MS, 16 * MS, SPANS)
    assert asdict(found) == {
        "arrives": 5.0,
        "slot": 3.0,
        "verdict": 3.0,
        "prefill": 1.25,
        "leaves": 3.0,
        "first_token": 14.0,
    }
    assert found.beyond_prefill == 12.75


@pytest.mark.parametrize("missing", ["adasd.prefill", "adasd.target.verify", "chat pair"])
def test_without_a_span_there_is_no_figure(missing: str):
    with pytest.raises((LookupError, ValueError)):
        stages(2 * MS, 16 * MS, [one for one in SPANS if one.name != missing])


def test_figures_are_medians():
    found = medians([Stages(arrives, 1.0, 1.0, 1.0, 1.0, 9.0) for arrives in (5.0, 1.0, 3.0)])
    assert (found.arrives, found.first_token) == (3.0, 9.0)
