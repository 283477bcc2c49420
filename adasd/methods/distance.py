"""How a rule by distance is applied: two readings each, which the published text leaves open (docs/algorithm.md)."""

from __future__ import annotations

from enum import StrEnum


class Order(StrEnum):
    """What a token has to pass."""

    EXACT_FIRST = "exact-first"  # the exact test, or else the rule: the same law as ALONE, more accepted
    ALONE = "alone"  # the rule; what it refuses is replaced by the target's own sample


class Laws(StrEnum):
    """Of which laws the distance is."""

    RAW = "raw"  # after masks at temperature 1
    PROCESSED = "processed"  # as sampled: temperature, top-k, top-p and min-p too; greedy: 0 or 1
