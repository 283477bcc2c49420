"""Judged tokens as two histograms over the Jensen-Shannon distance: the exact test passed, or failed.

Distances (base 2, in [0, 1]) are known to one bin, 1 / 256. Arrays are never written after they are made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from adasd.rounds import NUM_DISTANCE_BINS, RoundCompleted

CENTRES: NDArray[np.float64] = (np.arange(NUM_DISTANCE_BINS) + 0.5) / NUM_DISTANCE_BINS


class Label(StrEnum):
    """What makes a judged token an example of acceptance (docs/algorithm.md)."""

    EXACT = "exact"  # it passed the exact test, whatever became of it
    OUTCOME = "outcome"  # it was accepted, exactly or by relaxation


@dataclass(frozen=True, slots=True)
class HistogramOptions:
    """Which labels count and for how long."""

    label: Label = Label.EXACT
    memory: float = 8192.0  # labels; each new one shrinks all weights by 1 / memory
    window: int | None = None  # labels; set: the newest so many count fully and older ones not at all
    warm_labels: float = 32.0  # weight per class below which nothing is relaxed


def labelled(round: RoundCompleted, label: Label) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(bins, accepted) of the round's judged positions; distances that are no numbers are left out."""
    verdict = round.verdict
    num = min(len(verdict.distances), len(verdict.exact_ok))
    distances = np.array(verdict.distances[:num], dtype=np.float64)
    by_outcome = np.arange(num) < verdict.num_accepted
    accepted = by_outcome if label is Label.OUTCOME else np.array(verdict.exact_ok[:num], dtype=np.bool_)
    real = np.isfinite(distances)
    scaled = np.clip(distances[real], 0.0, 1.0) * NUM_DISTANCE_BINS
    return np.minimum(scaled.astype(np.int64), NUM_DISTANCE_BINS - 1), accepted[real]


def _zeros() -> NDArray[np.float64]:
    return np.zeros((2, NUM_DISTANCE_BINS))


def _nothing() -> NDArray[np.int64]:
    return np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class DistanceHistograms:
    """Weights by class and bin; row 0 rejected, row 1 accepted."""

    weights: NDArray[np.float64] = field(default_factory=_zeros)  # [2, NUM_DISTANCE_BINS]
    num_labels: int = 0  # ever seen
    recent: NDArray[np.int64] = field(default_factory=_nothing)  # newest labels, only kept for a window

    @property
    def rejected(self) -> NDArray[np.float64]:
        rejected: NDArray[np.float64] = self.weights[0]
        return rejected

    @property
    def accepted(self) -> NDArray[np.float64]:
        accepted: NDArray[np.float64] = self.weights[1]
        return accepted

    def add(self, round: RoundCompleted, options: HistogramOptions) -> DistanceHistograms:
        bins, accepted = labelled(round, options.label)
        if not len(bins):
            return self
        codes = bins + NUM_DISTANCE_BINS * accepted  # accepted is 0 or 1: the row
        num_labels = self.num_labels + len(codes)
        if options.window is not None:
            recent = np.concatenate((self.recent, codes))[-options.window :]
            return DistanceHistograms(_count(recent), num_labels, recent)
        kept = (1 - 1 / options.memory) ** len(codes) if math.isfinite(options.memory) else 1.0
        return DistanceHistograms(self.weights * kept + _count(codes), num_labels)

    def warm(self, options: HistogramOptions) -> bool:
        """Enough of both classes, and each spread over at least two bins."""
        enough = self.weights.sum(axis=1) >= options.warm_labels
        spread = (self.weights > 0).sum(axis=1) >= 2
        return bool(enough.all() and spread.all())


def _count(codes: NDArray[np.int64]) -> NDArray[np.float64]:
    counts = np.bincount(codes, minlength=2 * NUM_DISTANCE_BINS).astype(np.float64)
    return counts.reshape(2, NUM_DISTANCE_BINS)
