"""Where the slow twin's decisions by chance come from: numbers given beforehand, or whatever a proof wants.

``verify_reference`` asks for decisions, not for numbers, so that a proof can follow every branch with its exact
probability (tests/statistical).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class RandomSource(Protocol):
    """Decisions about one block."""

    def below(self, i: int, threshold: float) -> bool:
        """Is token i's uniform number, one for all questions about it, below the threshold?"""
        ...

    def relax_below(self, i: int, threshold: float) -> bool:
        """The same of token i's second uniform number, for acceptance methods."""
        ...

    def pick(self, weights: Sequence[float]) -> int:
        """An index with the probability of its weight; asked once per block."""
        ...


@dataclass(frozen=True, slots=True)
class GivenNumbers:
    """The numbers that the tensor code was given (``verify.Chance``)."""

    accept: Sequence[float]
    expo: Sequence[float]
    relax: Sequence[float]

    def below(self, i: int, threshold: float) -> bool:
        return self.accept[i] < threshold

    def relax_below(self, i: int, threshold: float) -> bool:
        return self.relax[i] < threshold

    def pick(self, weights: Sequence[float]) -> int:
        """The race argmax weight / E; ties: lowest index."""
        races = [weight / max(e, math.ulp(0.0)) for weight, e in zip(weights, self.expo, strict=True)]
        return max(range(len(races)), key=lambda i: (races[i], -i))
