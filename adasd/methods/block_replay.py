"""Replay of recent blocks: what shorter blocks would have yielded under other stop rules.

A block that only its cap ended shows the outcome of any rule that ends it earlier, at a length or after the first
token above an entropy: as many tokens are accepted, up to the new end. So each rule has a mean of tokens per round
and a mean length; rules that another one beats in both are left out. The rest is a menu, from which the measured
times, which change faster, choose.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

ONE_IN = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Candidate ceilings: the entropy that one in n drafted tokens exceeds, for these n."""


class Block(NamedTuple):
    """A block that ended at its cap, and how much of it was accepted."""

    entropies: tuple[float, ...]  # nats, one per token
    num_accepted: int


class Course(NamedTuple):
    """One stop rule and its replayed yield."""

    max_tokens: int
    entropy_ceiling: float  # nats
    tokens: float  # mean tokens emitted per round, including the target's own
    length: float  # mean tokens drafted per round


def menu(blocks: Sequence[Block]) -> tuple[Course, ...]:
    """Unbeaten lengths and ceilings, by rising mean length and tokens; all ``blocks`` have the same length."""
    entropies_BK = np.array([block.entropies for block in blocks])
    accepted_B = np.array([block.num_accepted for block in blocks])
    longest = entropies_BK.shape[1]
    rules = [(length, math.inf) for length in range(1, longest + 1)]
    rules += [(longest, ceiling) for ceiling in _ceilings(entropies_BK)]
    courses = []
    for length, ceiling in rules:
        above_BK = entropies_BK > ceiling
        lens_B = np.where(above_BK.any(axis=1), above_BK.argmax(axis=1) + 1, length)
        tokens = float(np.minimum(lens_B, accepted_B).mean()) + 1
        courses.append(Course(length, ceiling, tokens, float(lens_B.mean())))
    return tuple(_unbeaten(courses))


def _ceilings(entropies_BK: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> list[float]:
    falling = np.sort(entropies_BK.ravel())[::-1]
    return sorted({float(falling[max(0, len(falling) // share - 1)]) for share in ONE_IN})


def _unbeaten(courses: Sequence[Course]) -> list[Course]:
    kept: list[Course] = []
    for course in sorted(courses, key=lambda course: (course.length, -course.tokens)):
        if not kept or course.tokens > kept[-1].tokens:
            kept.append(course)
    return kept
