"""A replica's reports to the scaling policy cover the time since the last report, not since the start."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.worker.host_stats import HostStats
from services.worker.load_meter import LoadMeter

STATS = HostStats(
    num_slots=8,
    num_sessions=2,
    num_pending=1,
    num_steps=10,
    num_calls=8,
    num_failed=0,
    num_tokens=40,
    busy_s=0.1,
    batch_sizes=((1, 10),),
    waited_s=0.3,
    computed_s=0.1,
    num_optimistic=2,
)


def test_shares_and_means_are_of_the_time_since_the_last_report():
    meter = LoadMeter()
    first = meter.since_last(STATS, 3)
    assert first == pytest.approx(
        {"sessions": 3, "slots": 8, "step_ms": 10.0, "wait": 0.75, "optimistic": 0.25}
    )
    more = replace(
        STATS, num_steps=20, busy_s=0.5, num_calls=12, num_optimistic=5, waited_s=0.3, computed_s=0.5
    )
    assert meter.since_last(more, 2) == pytest.approx(
        {"sessions": 2, "slots": 8, "step_ms": 40.0, "wait": 0.0, "optimistic": 0.75}
    )


def test_an_idle_replica_reports_no_load_and_its_last_step_time():
    meter = LoadMeter()
    meter.since_last(STATS, 3)
    assert meter.since_last(STATS, 0) == {
        "sessions": 0,
        "slots": 8,
        "step_ms": pytest.approx(10.0),
        "wait": 0.0,
        "optimistic": 0.0,
    }
    assert LoadMeter().since_last(replace(STATS, num_steps=0, num_calls=0), 0)["step_ms"] == 0.0
