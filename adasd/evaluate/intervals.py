"""95 % confidence intervals in closed form: equal data give equal intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

Z = 1.959964  # normal quantile of 97.5 %


def wilson(num_right: int, num: int) -> tuple[float, float]:
    """Wilson score interval of a share; (0, 1) without data."""
    if num == 0:
        return 0.0, 1.0
    share, z2 = num_right / num, Z * Z
    centre = (share + z2 / (2 * num)) / (1 + z2 / num)
    half = Z / (1 + z2 / num) * math.sqrt(share * (1 - share) / num + z2 / (4 * num * num))
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_difference(ours: Sequence[bool], theirs: Sequence[bool]) -> tuple[float, float, float]:
    """(difference, low, high) of two shares over the same questions; Agresti and Min 2005, formula (6).

    A Wald interval after adding half an observation to each of the four cells, which keeps its coverage where few
    answers or none differ.
    """
    num = len(ours)
    if num == 0:
        return 0.0, -1.0, 1.0
    gained = sum(a and not b for a, b in zip(ours, theirs, strict=True))
    lost = sum(b and not a for a, b in zip(ours, theirs, strict=True))
    n, b, c = num + 2, gained + 0.5, lost + 0.5
    centre = (b - c) / n
    half = Z * math.sqrt((b + c) - (b - c) ** 2 / n) / n
    return (gained - lost) / num, max(-1.0, centre - half), min(1.0, centre + half)
