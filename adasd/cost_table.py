"""Measured time of a forward pass by its number of tokens: flat on a large device, then rising."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

EXACT = 17
"""Sizes up to here have a class each: a block of 16 tokens and the token before it."""
PER_DOUBLING = 2
"""Size classes per doubling of the number of tokens beyond that."""
MEMORY = 32.0
"""Passes of a class after which the oldest decay."""
CURVED = 3
"""Sizes that are known from which on there is more than a line."""
ENOUGH = 4
"""Passes of a size from which on it is a point of the curve."""
SHRINK = 4.0
"""Weight of the line, in passes of one size."""

Point = tuple[float, float, float]
"""Number of passes (at most MEMORY), mean tokens, mean milliseconds."""


class CostTable(NamedTuple):
    """Mean milliseconds of passes by size class, interpolated linearly between classes, never falling."""

    points: tuple[Point | None, ...] = ()  # by size class

    def add(self, num_tokens: int, ms: float) -> CostTable:
        """One pass over ``num_tokens`` >= 1 tokens."""
        place = _place(num_tokens)
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

    def bends(self, num_tokens: int) -> list[float]:
        """Milliseconds by which passes over 1 to ``num_tokens`` tokens take longer than by a line; empty if unknown.

        The line has the least squared distance to all passes. A size with few passes is shrunk towards it.
        """
        known = [point for point in self.points if point is not None and point[0] >= ENOUGH]
        if len(known) < CURVED:
            return []
        total = sum(count for count, _, _ in known)
        x_mean = sum(count * tokens for count, tokens, _ in known) / total
        y_mean = sum(count * ms for count, _, ms in known) / total
        spread = sum(count * (tokens - x_mean) ** 2 for count, tokens, _ in known)
        slope = sum(count * (tokens - x_mean) * (ms - y_mean) for count, tokens, ms in known) / spread
        shrunk = tuple(
            (count, tokens, (ms - y_mean - slope * (tokens - x_mean)) * count / (count + SHRINK))
            for count, tokens, ms in known
        )
        return [_between(shrunk, size) for size in range(1, num_tokens + 1)]

    def _rising(self) -> list[tuple[float, float]]:
        """(tokens, ms), with ms made non-decreasing, since a dip is noise."""
        known = [(tokens, ms) for _, tokens, ms in filter(None, self.points)]
        largest, rising = 0.0, []
        for tokens, ms in known:
            largest = max(largest, ms)
            rising.append((tokens, largest))
        return rising


def _place(num_tokens: int) -> int:
    """The class of a size."""
    if num_tokens <= EXACT:
        return num_tokens - 1
    return EXACT - 1 + max(1, round(PER_DOUBLING * math.log2(num_tokens / EXACT)))


def _between(points: Sequence[Point], x: float) -> float:
    """The value at x by linear interpolation; beyond the ends, the nearest one's."""
    (_, x0, y0) = points[0]
    for _, x1, y1 in points:
        if x < x1:
            return y0 if x <= x0 else y0 + (x - x0) * (y1 - y0) / (x1 - x0)
        x0, y0 = x1, y1
    return y0
