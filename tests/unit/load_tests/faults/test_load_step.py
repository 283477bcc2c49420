"""The load step's bookkeeping: phases, scrapes, and the verdict."""

from __future__ import annotations

import pytest

from load_tests.faults.known_answers import RequestOutcome, differing
from load_tests.faults.load_step import (
    LoadPhase,
    TierSample,
    asked_at,
    first_token_ms,
    page,
    rates,
    sample,
    scaled,
    table,
)
from load_tests.record import console
from tests.pages import charts_of

SCRAPE = """
# HELP adasd_worker_slots Sessions that the replica can hold.
adasd_worker_slots{replica="t1",role="target"} 16.0
adasd_worker_slots{replica="t2",role="target"} 16.0
adasd_worker_slots{replica="d1",role="draft"} 64.0
vllm:num_requests_running{engine="0",replica="o",role="orchestrator"} 5.0
vllm:num_requests_waiting{engine="0",replica="o",role="orchestrator"} 2.0
vllm:generation_tokens_total{engine="0",replica="o",role="orchestrator"} 1234.0
"""


def samples(targets: list[int]) -> list[TierSample]:
    return [TierSample(float(i), 2, count, 1, 2, 0, 100.0 * i) for i, count in enumerate(targets)]


def test_phases_follow_one_another():
    phases = (LoadPhase(2, 10.0), LoadPhase(20, 5.0), LoadPhase(2, 1.0))
    assert [asked_at(phases, at) for at in (0.0, 9.9, 10.0, 14.9, 15.5, 16.0)] == [2, 2, 20, 20, 2, 0]


def test_a_scrape_becomes_a_sample():
    assert sample(SCRAPE, 3.0, 20) == TierSample(3.0, 20, 2, 1, 5, 2, 1234.0)


def test_scaling_means_up_and_down_again():
    assert scaled(samples([1, 1, 2, 3, 1]))
    assert not any(scaled(samples(counts)) for counts in ([1, 1, 1], [1, 2, 2], [2, 2, 1]))


def test_requests_answered_in_two_ways_are_found():
    def said(key: int, text: str | None) -> RequestOutcome:
        return RequestOutcome(key, text, None, 0.1, 1.0, 0.0)

    assert differing([said(1, "a"), said(1, "a"), said(2, "b"), said(2, "c"), said(3, None)]) == [2]


def test_figures_table_and_plot_agree():
    outcomes = [RequestOutcome(1, "a", None, 0.2, 1.0, 0.5), RequestOutcome(2, "b", None, 0.4, 1.0, 0.3)]
    seen = samples([1, 2, 1])
    assert rates(seen) == [0.0, 100.0, 100.0]
    assert first_token_ms(outcomes, seen) == [None, pytest.approx(300.0), None]
    with console().capture() as _:
        assert table(outcomes, seen).row_count == 3  # every change of replicas is a row
    header = {
        "machine": {"cpu": "c", "cores": 2, "load_average": [0.5]},
        "threads": None,
        "commit": "f00",
        "date": "d",
    }
    drawn = charts_of(page(header, outcomes, seen))
    assert [line["values"] for chart in drawn for line in chart["lines"]] == [
        *([1, 2, 1], [1, 1, 1]),
        *([2, 2, 2], [2, 2, 2], [0, 0, 0]),
        rates(seen),
        [None, pytest.approx(300.0), None],
    ]
