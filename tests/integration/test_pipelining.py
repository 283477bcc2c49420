"""The real runner over gRPC: drafting ahead hides the shorter of the two times, without it they add up."""

from __future__ import annotations

import pytest

from load_tests.latency.pipelining import Case, share_of, trace_of, workers
from load_tests.latency.timed_engine import Costs


@pytest.mark.timeout(60)
async def test_drafting_ahead_hides_the_draft():
    costs = Costs(draft_ms=4.0, verify_ms=20.0, acceptance=1.0)
    cases = [Case(mode, costs, block_len=4, mode=mode) for mode in ("pipelined", "sequential")]
    for _ in range(5):  # a busy machine may slow one and not the other
        with workers({case.name: costs for case in cases}) as (draft_at, target_at):
            traces = [await trace_of(case, draft_at, target_at, num_rounds=15) for case in cases]
        pipelined, sequential = (share_of(case, trace) for case, trace in zip(cases, traces, strict=True))
        assert (pipelined.hit_rate, sequential.hit_rate) == (1.0, 0.0)
        assert pipelined.round_ms >= 20.0
        assert sequential.round_ms >= 36.0
        if pipelined.round_ms < sequential.round_ms:
            return
    raise AssertionError(f"{pipelined.round_ms:.1f} ms a round ahead, {sequential.round_ms:.1f} ms in turn")
