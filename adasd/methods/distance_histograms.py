"""Judged tokens as two histograms over the Jensen-Shannon distance: accepted and rejected tokens.

Distances (base 2, in [0, 1]) are binned to 1 / 256. Arrays are never modified after creation.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from adasd.rounds import NUM_DISTANCE_BINS, RoundCompleted

CENTRES: NDArray[np.float64] = (np.arange(NUM_DISTANCE_BINS) + 0.5) / NUM_DISTANCE_BINS
MEMORY = 8192.0
"""Labels; each new one shrinks all weights by 1 / memory."""
WARM_LABELS = 32.0
"""Weight per class below which nothing is relaxed."""


class Label(StrEnum):
    """Which judged tokens count as accepted."""

    OUTCOME = "outcome"  # those accepted, exactly or by relaxation
    EXACT = "exact"  # those that passed the exact test


class Scope(StrEnum):
    """Whose verdicts determine a request's rule; with ``process``, its output depends on other requests."""

    PROCESS = "process"  # all requests', as of the request's start, unchanged until its end
    REQUEST = "request"  # the request's own only


def labelled(round: RoundCompleted, label: Label) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(bins, accepted) of the round's judged positions, without distances of exactly 0 or 1 and NaN."""
    verdict = round.verdict
    num = min(len(verdict.distances), len(verdict.exact_ok))
    distances = np.array(verdict.distances[:num], dtype=np.float64)
    by_outcome = np.arange(num) < verdict.num_accepted
    accepted = by_outcome if label is Label.OUTCOME else np.array(verdict.exact_ok[:num], dtype=np.bool_)
    inside = (distances > 0.0) & (distances < 1.0)
    return (distances[inside] * NUM_DISTANCE_BINS).astype(np.int64), accepted[inside]


def _zeros() -> NDArray[np.float64]:
    return np.zeros((2, NUM_DISTANCE_BINS))


@dataclass(frozen=True, slots=True, eq=False)
class DistanceHistograms:
    """Weights by class (0: rejected, 1: accepted) and bin."""

    weights: NDArray[np.float64] = field(default_factory=_zeros)  # [2, NUM_DISTANCE_BINS]
    num_labels: int = 0  # ever seen

    def add(self, round: RoundCompleted, label: Label, memory: float) -> DistanceHistograms:
        bins, accepted = labelled(round, label)
        if not len(bins):
            return self
        new = np.bincount(bins + NUM_DISTANCE_BINS * accepted, minlength=2 * NUM_DISTANCE_BINS)
        kept = (1 - 1 / memory) ** len(bins)
        return DistanceHistograms(
            self.weights * kept + new.reshape(self.weights.shape), self.num_labels + len(bins)
        )

    def is_warm(self, warm_labels: float) -> bool:
        """Enough of both classes, and each spread over at least two bins."""
        enough = self.weights.sum(axis=1) >= warm_labels
        spread = (self.weights > 0).sum(axis=1) >= 2
        return bool(enough.all() and spread.all())


@dataclass(frozen=True, slots=True, eq=False)
class Histories:
    """The histograms of one request, or of the process."""

    histograms: DistanceHistograms = field(default_factory=DistanceHistograms)
    is_frozen: bool = False  # a request's copy of the process's histograms, which does not change

    @classmethod
    def start(cls, shared: Histories | None, scope: Scope) -> Histories:
        if shared is None or scope is Scope.REQUEST:
            return cls()
        return cls(shared.histograms, is_frozen=True)

    def learn(self, round: RoundCompleted, label: Label, memory: float) -> Histories:
        return self if self.is_frozen else replace(self, histograms=self.histograms.add(round, label, memory))
