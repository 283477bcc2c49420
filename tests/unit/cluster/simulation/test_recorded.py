"""Predictions against recorded figures of the service with the demo pair, on two cores that everything shares.

The costs below were measured with eight clients in mode exact; other loads are predicted. docs/simulate.md lists all
quantities, also those that the simulator misses by more than 10 % (single-session times, medians under a burst).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest

from adasd.config import SpeculationConfig
from adasd.evaluate.traces import Trace
from cluster.simulation.cards import drafted
from cluster.simulation.costs import Card, Pair, ServiceCosts
from cluster.simulation.curves import PassCurve, curve_of
from cluster.simulation.objective import Objective
from cluster.simulation.outcome import Outcome
from cluster.simulation.rounds import Clients, closed_loop, open_loop, simulate
from cluster.simulation.texts import AnswerText, recorded
from tests.unit.cluster.simulation.parts import config

DATA = Path(__file__).resolve().parents[3] / "data" / "simulation"
IN_SERVICE = 3.0
"""A pass in the service over the same pass alone, where the caches stay warm: measured with eight clients."""
SERVICE = ServiceCosts(
    request_ms=6.0,
    ending_ms=13.0,
    lease_ms=3.0,
    first_ms=3.0,
    call_ms=0.35,
    worker_ms=0.5,
    elsewhere_ms=9.6,
    link_ms=0.2,
    draft_link_ms=0.2,
    cores=2,
    background=0.35,
)
"""CPU of the processes per request and call, and what ran beside them."""
QUEUED = 16
"""Requests that could wait when the figures were recorded: more than today's default."""
WITHIN = 0.10


@cache
def found() -> Any:
    return json.loads((DATA / "recorded.json").read_text())


class InTurn:
    """The recorded answers one after the other, as the load generator asks them."""

    def __init__(self, traces: Sequence[Trace]) -> None:
        self._texts, self._number = recorded(traces, found()["prompt_lens"], foreseen=0.59), 0

    @property
    def lengths(self) -> Sequence[int]:
        return self._texts.lengths

    def draw(self, chance: Random, prompt_len: int, num_tokens: int | None) -> AnswerText:
        number = self._number % len(self._texts.traces)
        self._number += 1
        trace = self._texts.traces[number]
        second = tuple(chance.random() < self._texts.foreseen for _ in trace.accepted)
        return AnswerText(self._texts.prompt_lens[number], trace, second)


def curve(role: str) -> PassCurve:
    """The recorded passes, made rising: a dip is noise."""
    points: dict[int, list[tuple[float, float]]] = {}
    smallest = 0.0
    for num_sessions, tokens, ms in sorted(found()["alone"][role]):
        line = points.setdefault(num_sessions, [])
        ms = max(ms, line[-1][1] / IN_SERVICE if line else smallest)
        smallest = smallest if line else ms
        line.append((tokens, IN_SERVICE * ms))
    return curve_of(points, role)


def play(clients: Clients) -> Outcome:
    """With drafting in every round, as when the figures were recorded: many requests drafted from the start."""
    pair = Pair(Card("target", curve("target")), Card("draft", curve("draft")), SERVICE)
    its = config(speculation=SpeculationConfig(bypass=False))
    return simulate(replace(its, max_queued_requests=QUEUED), pair, clients)


def texts() -> InTurn:
    return InTurn(drafted(DATA / "traces.jsonl"))


def test_many_clients_get_the_recorded_speed_and_times():
    figures = play(closed_loop([(24, 4.0)], texts(), 50)).figures(Objective())
    wanted = found()["service"]["exact 24"]
    assert figures.tokens_per_s == pytest.approx(wanted["tokens_per_s"], rel=WITHIN)
    assert figures.first_token_ms[0] == pytest.approx(wanted["first_token_ms"], rel=WITHIN)
    assert figures.per_token_ms[0] == pytest.approx(wanted["per_token_ms"], rel=WITHIN)


@pytest.mark.parametrize("scenario", ["steady", "burst"])
def test_a_bench_scenario_gets_the_recorded_tokens_per_second(scenario: str):
    its = found()[scenario]
    figures = play(open_loop(its["arrivals_s"], texts(), 50)).figures(Objective())
    wanted = its["figures"]
    assert figures.num_done == wanted["num_requests"]
    assert figures.tokens_per_s == pytest.approx(wanted["tokens_per_s"], rel=WITHIN)
    if scenario == "burst":  # the end of the queue, which the capacity decides
        assert figures.first_token_ms[1] == pytest.approx(wanted["first_token_ms"]["p90"], rel=WITHIN)
