"""Exact methods on the traces of a pair, each against the static length that was best on other prompts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from adasd.evaluate.compared_methods import PLAIN, method
from adasd.evaluate.intervals import Array, Interval, at_most, between, holm, resampled_ratios, speed_ratio
from adasd.evaluate.replay import Costs, Replayed, replay, replay_static
from adasd.evaluate.traces import AnyTrace

LENGTHS = range(17)
"""Static lengths to choose from; 0 is plain decoding."""
FLOOR = 0.97
"""Declared before the run: the speed, over the best static length, that no cell may be below."""
Pace = list[tuple[float, float]]
"""Tokens and milliseconds of each answer."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One method on one pair, at one temperature and cost."""

    pair: str
    temperature: float
    cost: str
    method: str
    tokens_per_round: float
    drafted_per_round: float
    over_off: Interval  # speed relative to plain decoding
    static: str  # best static length or plain decoding, on the development prompts
    over_static: Interval  # speed relative to it, on the test prompts
    resampled: Array = field(
        repr=False, compare=False
    )  # over the best static length, by bootstrap over prompts

    @property
    def below_floor(self) -> float:
        """p-value of "at most FLOOR times that speed"."""
        return at_most(self.resampled, FLOOR)


@dataclass(frozen=True, slots=True)
class Circumstance:
    """What a cell's methods share."""

    pair: str
    temperature: float
    cost: str
    costs: Costs
    dev: tuple[AnyTrace, ...]  # chooses the static length
    test: tuple[AnyTrace, ...]  # gives the figures


@dataclass(frozen=True, slots=True)
class Summary:
    """One method over all cells."""

    method: str
    worst: float
    worst_cell: str
    mean: Interval  # geometric, of the speeds over the best static length
    num_below: int  # cells below FLOOR
    num_shown: int  # cells above FLOOR with 95 % confidence for all of them together (Holm)


def circumstances(
    pair: str, costs: dict[str, Costs], dev: Sequence[AnyTrace], test: Sequence[AnyTrace]
) -> Iterator[Circumstance]:
    """All temperatures and costs of one pair."""
    for temperature in dict.fromkeys(trace.temperature for trace in test):
        chosen = [
            tuple(trace for trace in traces if trace.temperature == temperature) for traces in (dev, test)
        ]
        for cost, values in costs.items():
            yield Circumstance(pair, temperature, cost, values, *chosen)


def cells(at: Circumstance, methods: Sequence[str]) -> list[Cell]:
    """One cell per method. The static length is the fastest of 1 to 16, or plain decoding, on ``at.dev``."""

    length = max(LENGTHS, key=lambda one: speed(replay_static(at.dev, one, at.costs)))
    off, best = (replay_static(at.test, one, at.costs) for one in (0, length))
    static = f"static-{length}" if length else PLAIN
    found = []
    for name in methods:
        answers = replay(at.test, method(name), at.costs)
        ours = [answer.pace for answer in answers]
        found.append(
            Cell(
                at.pair,
                at.temperature,
                at.cost,
                name,
                _per_round(answers, "num_tokens"),
                _per_round(answers, "num_drafted"),
                speed_ratio(ours, off),
                static,
                speed_ratio(ours, best),
                resampled_ratios(ours, best),
            )
        )
    return found


def speed(answers: Pace) -> float:
    """Tokens per millisecond."""
    return sum(tokens for tokens, _ in answers) / sum(ms for _, ms in answers)


def _per_round(answers: Sequence[Replayed], what: str) -> float:
    rounds = sum(answer.num_rounds for answer in answers)
    return float(sum(getattr(answer, what) for answer in answers) / max(1, rounds))


def summary(name: str, found: Sequence[Cell]) -> Summary:
    """One method over all of its cells."""
    own = [cell for cell in found if cell.method == name]
    adjusted = holm({label(cell): cell.below_floor for cell in own})
    worst = min(own, key=lambda cell: cell.over_static.value)
    mean = float(np.mean([math.log(cell.over_static.value) for cell in own]))
    means = np.mean([np.log(cell.resampled) for cell in own], axis=0)  # equal prompts are drawn in all cells
    return Summary(
        name,
        worst.over_static.value,
        label(worst),
        between(math.exp(mean), np.exp(means)),
        sum(cell.over_static.value < FLOOR for cell in own),
        sum(p_value < 0.05 for p_value in adjusted.values()),
    )


def label(cell: Cell) -> str:
    """The cell in words."""
    return f"{cell.pair}, T={cell.temperature:g}, {cell.cost}"
