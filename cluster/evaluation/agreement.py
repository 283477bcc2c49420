"""Whether replay says what happens: speeds of a pair by CPU time, and replayed over traces of the same texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adasd.evaluate.cells import speed
from adasd.evaluate.compared_methods import PLAIN, method
from adasd.evaluate.measure import MethodRun
from adasd.evaluate.replay import Costs, replay
from adasd.evaluate.traces import AnyTrace


@dataclass(frozen=True, slots=True)
class Agreement:
    """One method's speed over plain decoding, greedy."""

    method: str
    measured: float  # by CPU time, end to end
    replayed: float


def fitted(runs: Sequence[MethodRun]) -> Costs:
    """Time of a drafted token, its share of the verdict included, by least squares; a plain round takes 1."""
    rows = [
        (answer.num_rounds, sum(answer.drafted_per_round), answer.cpu_s or 0.0)
        for run in runs
        for answer in run.answers
    ]
    rounds_drafted = np.array([(rounds, drafted) for rounds, drafted, _ in rows], dtype=np.float64)
    (round_s, token_s), *_ = np.linalg.lstsq(rounds_drafted, np.array([row[2] for row in rows]))
    return Costs(draft_ms=float(token_s / round_s))


def agreement(runs: Sequence[MethodRun], traces: Sequence[AnyTrace], names: Sequence[str]) -> list[Agreement]:
    """Greedy runs against greedy traces that begin with the same prompts, in the same order."""
    by_name = {run.method.name: run for run in runs if run.temperature == 0.0}
    greedy = [trace for trace in traces if trace.temperature == 0.0][: len(by_name[PLAIN].answers)]
    costs = fitted([by_name[name] for name in (PLAIN, *names)])

    def measured(name: str) -> float:
        answers = by_name[name].answers
        return sum(answer.num_decoded for answer in answers) / sum(answer.cpu_s or 0.0 for answer in answers)

    def replayed(name: str) -> float:
        return speed([answer.pace for answer in replay(greedy, method(name), costs)])

    return [
        Agreement(name, measured(name) / measured(PLAIN), replayed(name) / replayed(PLAIN)) for name in names
    ]
