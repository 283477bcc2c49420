"""The slow twin's source of randomness: given random numbers, or a test's enumeration of all outcomes.

``verify_reference`` calls it for decisions, not for numbers, so that a test can follow every outcome with its exact
probability (tests/statistical).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class RandomSource(Protocol):
    """Random decisions about one block."""

    def below(self, i: int, threshold: float) -> bool:
        """Whether token i's uniform number is below the threshold; every call for i uses the same number."""
        ...

    def relax_below(self, i: int, threshold: float) -> bool:
        """The same for token i's second uniform number, for acceptance methods."""
        ...

    def pick(self, weights: Sequence[float]) -> int:
        """An index drawn in proportion to the weights; called once per block."""
        ...


@dataclass(frozen=True, slots=True)
class GivenNumbers:
    """The same numbers as the tensor code uses (``verify.RandomNumbers``)."""

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
