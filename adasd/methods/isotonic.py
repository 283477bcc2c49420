"""Making a curve over the distance never rise; a larger distance must not be easier to accept."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Curve = NDArray[np.float64]


def without_gaps(curve: Curve, known: NDArray[np.bool_]) -> Curve:
    """Unknown entries become their lower bound: the next known value behind them, 0 at the end."""
    filled = np.append(np.where(known, curve, 0.0), 0.0)
    source = np.where(known, np.arange(len(curve)), len(curve))
    return np.asarray(filled[np.minimum.accumulate(source[::-1])[::-1]])


def running_minimum(curve: Curve) -> Curve:
    """The largest never-rising curve below ``curve``."""
    return np.minimum.accumulate(curve)


def never_rising_pava(curve: Curve, weights: Curve) -> Curve:
    """The never-rising curve nearest in weighted squares (pool adjacent violators); weights > 0."""
    blocks: list[tuple[float, float, int]] = []  # mean, weight, length
    for value, weight in zip(curve.tolist(), weights.tolist(), strict=True):
        block = (value, weight, 1)
        while blocks and blocks[-1][0] < block[0]:
            mean, mass, length = blocks.pop()
            total = mass + block[1]
            block = ((mean * mass + block[0] * block[1]) / total, total, length + block[2])
        blocks.append(block)
    return np.repeat([mean for mean, _, _ in blocks], [length for _, _, length in blocks])
