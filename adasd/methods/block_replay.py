"""What blocks of other lengths would have brought: recent ones, replayed under every simpler rule.

A block that nothing but its cap ended says what any shorter one would have been: it would have ended at a length,
or behind the first token above an entropy, and stood as far as the whole block did. So each rule has its mean
tokens per round and its mean length, and those that another rule beats in both are left out. What is left is a menu
from which times, which change faster, choose.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

ONE_IN = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Ceilings are the entropies that one in so many drafted tokens passes."""


class Block(NamedTuple):
    """A block that ended at its cap, and what became of it."""

    entropies: tuple[float, ...]  # nats, one per token
    num_accepted: int


class Course(NamedTuple):
    """One rule and what it would have brought."""

    max_tokens: int
    entropy_ceiling: float  # nats
    tokens: float  # emitted per round, mean; the target's own included
    length: float  # drafted per round, mean


def menu(blocks: Sequence[Block]) -> tuple[Course, ...]:
    """Lengths without a ceiling and ceilings without a length, by growing length and tokens; blocks of one length."""
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
