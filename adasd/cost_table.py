"""Measured time of a forward pass by its number of tokens: flat on a large device, then rising."""

from __future__ import annotations

import math
from typing import NamedTuple

PER_DOUBLING = 2
"""Size classes per doubling of the number of tokens."""
MEMORY = 32.0
"""Passes of a class after which the oldest decay."""

Point = tuple[float, float, float]
"""Number of passes (at most MEMORY), mean tokens, mean milliseconds."""


class CostTable(NamedTuple):
    """Mean milliseconds of passes by size class, interpolated linearly between classes, never falling."""

    points: tuple[Point | None, ...] = ()  # by size class

    def add(self, num_tokens: int, ms: float) -> CostTable:
        """One pass over ``num_tokens`` >= 1 tokens."""
        place = round(PER_DOUBLING * math.log2(num_tokens))
        points = list(self.points) + [None] * (place + 1 - len(self.points))
        count, tokens, mean_ms = points[place] or (0.0, 0.0, 0.0)
        count = min(count + 1, MEMORY)
        points[place] = (
            count,
            tokens + (num_tokens - tokens) / count,
            mean_ms + (ms - mean_ms) / count,
        )
        return CostTable(tuple(points))

    def at(self, num_tokens: float) -> float | None:
        """Milliseconds of a pass of that size; None without data.

        Constant below the smallest known size. Above the largest, the line through the last two is continued; with
        only one known size it is constant.
        """
        known = self._rising()
        if not known:
            return None
        below = [point for point in known if point[0] <= num_tokens]
        above = [point for point in known if point[0] > num_tokens]
        if not below:
            return known[0][1]
        if not above:
            (x0, y0), (x1, y1) = known[-2:] if len(known) > 1 else (known[-1], known[-1])
        else:
            (x0, y0), (x1, y1) = below[-1], above[0]
        return y0 if x1 <= x0 else y0 + (num_tokens - x0) * (y1 - y0) / (x1 - x0)

    def _rising(self) -> list[tuple[float, float]]:
        """(tokens, ms), with ms made non-decreasing, since a dip is noise."""
        known = [(tokens, ms) for _, tokens, ms in filter(None, self.points)]
        largest, rising = 0.0, []
        for tokens, ms in known:
            largest = max(largest, ms)
            rising.append((tokens, largest))
        return rising
