"""Evaluation of a StopRule on the host; also the slow twin of every drafting loop."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from math import prod, ulp

from adasd.rounds import ENTROPY_EDGES, ChanceTable, StopRule

NO_TABLE = ChanceTable((1.0,) * (len(ENTROPY_EDGES) + 1), (1.0,) * (len(ENTROPY_EDGES) + 1), -1.0)
"""A table that never stops a block."""


def stops(rule: StopRule, entropies: Sequence[float], max_prob: float) -> bool:
    """Whether drafting ends with the newest token (which stays in the block).

    ``entropies`` of the block so far, in nats; ``max_prob``: largest probability of the newest token's distribution.
    """
    entropy = entropies[-1]
    return (
        len(entropies) >= rule.max_tokens
        or entropy > rule.entropy_ceiling
        or max_prob < rule.confidence_floor
        or (rule.table is not None and next_chance(rule.table, entropies) <= rule.table.price)
    )


def entropy_bin(entropy: float) -> int:
    """The bin of ``ENTROPY_EDGES`` that an entropy (nats) lies in; NaN lies in the last one."""
    return bisect_right(ENTROPY_EDGES, entropy) if entropy == entropy else len(ENTROPY_EDGES)


def next_chance(table: ChanceTable, entropies: Sequence[float]) -> float:
    """The chance that these tokens and the next one are accepted."""
    return survival(table, entropies) * table.next_chances[entropy_bin(entropies[-1])]


def survival(table: ChanceTable, entropies: Sequence[float]) -> float:
    """The chance that all of these tokens are accepted."""
    return prod(table.chances[entropy_bin(entropy)] for entropy in entropies)


def rest_of(table: ChanceTable, entropies: Sequence[float]) -> ChanceTable:
    """The table for the rest of a block that begins with these tokens: S starts at 1 again, so the price is scaled."""
    return replace(table, price=table.price / max(survival(table, entropies), ulp(0.0)))
