"""Kernel density of a histogram of distances (Silverman 1986), evaluated at the bins' centres."""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from adasd.methods.distance_histograms import CENTRES
from adasd.rounds import NUM_DISTANCE_BINS


class Bandwidth(StrEnum):
    """Rules of thumb for the kernel's standard deviation h from n values."""

    SILVERMAN = "silverman"  # 0.9 min(sigma, IQR / 1.34) n^(-1/5)
    NORMAL = "normal"  # 1.06 sigma n^(-1/5)


def bandwidth(weights: NDArray[np.float64], rule: Bandwidth) -> float:
    """h in units of distance, at least one bin; needs a total weight above 1."""
    total = float(weights.sum())
    mean = float(weights @ CENTRES) / total
    sigma = float(np.sqrt(weights @ (CENTRES - mean) ** 2 / (total - 1)))
    spread = 1.06 * sigma
    if rule is Bandwidth.SILVERMAN:
        spread = 0.9 * min(sigma, (quantile(weights, 0.75) - quantile(weights, 0.25)) / 1.34)
    return float(max(spread * total**-0.2, 1 / NUM_DISTANCE_BINS))


def quantile(weights: NDArray[np.float64], share: float) -> float:
    """The distance below which ``share`` of the weight lies, interpolated linearly within a bin."""
    edges = np.arange(NUM_DISTANCE_BINS + 1) / NUM_DISTANCE_BINS
    below = np.concatenate(([0.0], np.cumsum(weights)))
    return float(np.interp(share * below[-1], below, edges))


def density(weights: NDArray[np.float64], h: float) -> NDArray[np.float64]:
    """f(d) = 1 / (n h) sum of phi((d - s) / h) over the values s, at each bin's centre."""
    n_bins = NUM_DISTANCE_BINS
    steps = np.arange(1 - n_bins, n_bins) / (n_bins * h)
    kernel = np.exp(-0.5 * steps**2) / (h * np.sqrt(2 * np.pi))
    smooth = np.convolve(weights, kernel)[n_bins - 1 : 2 * n_bins - 1]
    return np.asarray(smooth / weights.sum(), dtype=np.float64)
