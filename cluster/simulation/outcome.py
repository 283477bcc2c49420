"""What a simulation found: every answer's times as columns, and the state of the deployment over time."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cluster.simulation.objective import Objective

DONE, REFUSED, LATE = 0, 1, 2
"""Outcomes: a whole answer; refused since slots and queue were full; no slot within the admission timeout."""
OUTCOMES = ("done", "refused", "no slot in time")
NEVER = float("nan")

Floats = NDArray[np.float64]


def doubles() -> array[float]:
    return array("d")


@dataclass(slots=True)
class Answers:
    """Columns, one entry per request; seconds since the start, NaN for what never came."""

    arrived_s: array[float] = field(default_factory=doubles)
    first_s: array[float] = field(default_factory=doubles)  # when the first token came
    ended_s: array[float] = field(default_factory=doubles)
    num_tokens: array[float] = field(default_factory=doubles)
    outcome: array[float] = field(default_factory=doubles)

    def __len__(self) -> int:
        return len(self.arrived_s)

    def add(
        self, arrived_s: float, first_s: float, ended_s: float, num_tokens: float, outcome: int = DONE
    ) -> None:
        for column, value in (
            (self.arrived_s, arrived_s),
            (self.first_s, first_s),
            (self.ended_s, ended_s),
            (self.num_tokens, num_tokens),
            (self.outcome, outcome),
        ):
            column.append(value)

    def columns(self) -> dict[str, Floats]:
        return {name: np.frombuffer(getattr(self, name), dtype=np.float64) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Sample:
    """The deployment at one moment."""

    at_s: float
    targets: int  # replicas that serve
    drafts: int
    wanted_targets: int  # the scaling decision
    wanted_drafts: int
    running: int  # requests with a target slot
    waiting: int  # requests without one
    tokens: float  # emitted since the start


@dataclass(frozen=True, slots=True)
class Figures:
    """All answers of a simulation, or of a part of its time. Times in milliseconds, NaN without answers."""

    num_requests: int
    num_done: int
    num_refused: int
    answers_per_s: float
    tokens_per_s: float
    first_token_ms: tuple[float, float, float]  # median, 90th and 99th percentile
    per_token_ms: tuple[float, float, float]  # mean of each answer after its first token
    attainment: float  # share of requests that met the objective


@dataclass(slots=True)
class Outcome:
    """One simulated run."""

    answers: Answers
    samples: list[Sample]
    seconds: float
    notes: dict[str, float] = field(default_factory=dict)

    def figures(self, objective: Objective, begin_s: float = 0.0, end_s: float = float("inf")) -> Figures:
        """Figures of the requests that arrived in [begin_s, end_s)."""
        found = self.answers.columns()
        chosen = (found["arrived_s"] >= begin_s) & (found["arrived_s"] < end_s)
        arrived, first, ended, tokens, outcome = (found[name][chosen] for name in Answers.__slots__)
        done = outcome == DONE
        first_ms = 1e3 * (first - arrived)
        per_token_ms = 1e3 * (ended - first) / np.maximum(tokens - 1, 1)
        good = done & (first_ms <= objective.first_token_ms) & (per_token_ms <= objective.per_token_ms)
        seconds = max(
            1e-9,
            (ended[done].max() if done.any() else self.seconds) - (arrived.min() if len(arrived) else 0.0),
        )
        return Figures(
            len(arrived),
            int(done.sum()),
            int((~done).sum()),
            done.sum() / seconds,
            float(tokens[done].sum()) / seconds,
            _percentiles(first_ms[done]),
            _percentiles(per_token_ms[done & (tokens > 1)]),
            float(good.mean()) if len(arrived) else 1.0,
        )

    def first_token_over_time(self, edges: Sequence[float]) -> list[float | None]:
        """Median milliseconds of the first tokens that came between neighbouring edges."""
        found = self.answers.columns()
        known = ~np.isnan(found["first_s"])
        came, waited = found["first_s"][known], 1e3 * (found["first_s"] - found["arrived_s"])[known]
        order = np.argsort(came)
        came, waited = came[order], waited[order]
        bounds = np.searchsorted(came, np.asarray(edges))
        pieces = itertools.pairwise(bounds)
        return [float(np.median(waited[low:high])) if high > low else None for low, high in pieces]


def _percentiles(values: Floats) -> tuple[float, float, float]:
    if not len(values):
        return NEVER, NEVER, NEVER
    low, middle, high = np.percentile(values, (50, 90, 99))
    return float(low), float(middle), float(high)
