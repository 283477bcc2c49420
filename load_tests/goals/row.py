"""One line of the table: a ratio, its goal, and the figures behind it. What a scenario is given."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from adasd.pairs.known import resolve_pair
from load_tests import record


@dataclass(frozen=True)
class Row:
    """A ratio and its goal; without ``measured``, ``about`` says why."""

    what: str
    goal: float | None  # None: a scenario that failed altogether
    measured: float | None
    about: str = ""  # the figures that it is made of
    at_most: bool = False  # whether the goal is an upper limit

    @property
    def is_met(self) -> bool | None:
        """None if nothing was measured."""
        if self.measured is None or self.goal is None:
            return None
        return self.measured <= self.goal if self.at_most else self.measured >= self.goal


@dataclass(frozen=True)
class Circumstances:
    """What every scenario is given."""

    threads: int
    repeats: int
    say: Callable[[str], object]


Scenario = Callable[[Circumstances], list[Row]]


def smollm2() -> tuple[Path, Path]:
    """Folders of the pair's models; ConfigError if they cannot be fetched."""
    return resolve_pair("smollm2", record.ROOT / "models", os.environ, lambda *_: None)


def ratio(ones: Sequence[float], others: Sequence[float]) -> float:
    """Median over repeats of the quotient within a repeat."""
    return median(one / other for one, other in zip(ones, others, strict=True))


def figures(unit: str, **named: float) -> str:
    """``off 98.7, exact 116.4 tokens/s``"""
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in named.items()) + f" {unit}"
