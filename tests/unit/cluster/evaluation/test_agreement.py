"""Costs are found again where times follow them, and replay then says what was measured."""

import pytest

from adasd.evaluate.compared_methods import method
from adasd.evaluate.measure import AnswerRecord, MethodRun
from adasd.evaluate.replay import Costs, replay
from cluster.evaluation.agreement import agreement, fitted
from tests.unit.evaluate.test_replay import trace

TEXTS = [trace("+++-" * num) for num in (2, 3, 5)]
TRUE = Costs(draft_ms=0.2)


def timed(name: str) -> MethodRun:
    """What a machine with these costs would measure, 20 ms per plain round."""
    answers = [
        AnswerRecord(
            "words", True, (0,) * (one.num_tokens + 1), one.num_rounds, (one.num_drafted,), (0,), 0, 1.0,
            0.02 * one.ms, None, None,
        )
        for one in replay(TEXTS, method(name), TRUE)
    ]  # fmt: skip
    return MethodRun(method(name), 0.0, tuple(answers))


def test_costs_are_found_and_replay_agrees():
    runs = [timed(name) for name in ("off", "static-3", "static-5")]
    assert fitted(runs).draft_ms == pytest.approx(0.2)
    for found in agreement(runs, TEXTS, ("static-3", "static-5")):
        assert found.replayed == pytest.approx(found.measured)
