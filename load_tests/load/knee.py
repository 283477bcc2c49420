"""Finds the highest rate that meets the objective in few trials: doubles until it fails, then bisects (in logs)."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

CLOSE_ENOUGH = 1.15
"""The search ends when the lowest failing rate is within this factor of the highest passing one."""
MOST_PER_S = 512.0
"""The search goes no higher than this, or than its first rate."""


@dataclass(frozen=True, slots=True)
class Knee:
    """``rate_per_s`` passed and ``missed_per_s`` failed; None if not found."""

    rate_per_s: float | None
    missed_per_s: float | None

    @property
    def is_bracketed(self) -> bool:
        return self.rate_per_s is not None and self.missed_per_s is not None

    def __str__(self) -> str:
        if self.rate_per_s is None:
            return f"knee: below {self.missed_per_s:.3g} requests per second"
        if self.missed_per_s is None:
            return f"knee: above {self.rate_per_s:.3g} requests per second, where the search ended"
        return f"knee: {self.rate_per_s:.3g} requests per second hold the objective, {self.missed_per_s:.3g} do not"


async def find_knee(holds: Callable[[float], Awaitable[bool]], first_per_s: float) -> Knee:
    """``holds`` tries one rate. If the first one fails, lower ones are tried, down to an eighth of it."""
    good, bad = None, None
    rate = first_per_s
    while bad is None and rate <= max(first_per_s, MOST_PER_S):
        if await holds(rate):
            good, rate = rate, 2 * rate
        else:
            bad = rate
    while good is None and bad is not None and bad > first_per_s / 8:
        if await holds(bad / 2):
            good = bad / 2
        else:
            bad /= 2
    while good is not None and bad is not None and bad / good > CLOSE_ENOUGH:
        middle = math.sqrt(good * bad)
        if await holds(middle):
            good = middle
        else:
            bad = middle
    return Knee(good, bad)
