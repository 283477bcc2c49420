"""Compares two results: ratios with 95 % confidence intervals from a block bootstrap.

Requests sent at about the same time meet the same queue, so blocks of BLOCK_S seconds are resampled (Künsch 1989), not
single answers: intervals from single answers would be too narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from adasd.errors import ConfigError
from load_tests.load.result_file import read

BLOCK_S = 2.0
NUM_DRAWS = 1000
MIN_BLOCKS = 5
Column = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True)
class Ratio:
    """B over A; the interval is None if there is too little data."""

    name: str
    first: float
    second: float
    ratio: float
    interval: tuple[float, float] | None

    @property
    def differs(self) -> bool:
        """Whether 1 is outside the interval."""
        return self.interval is not None and not self.interval[0] <= 1.0 <= self.interval[1]


Statistic = Callable[[Column], float]


def _quantile(share: float) -> Statistic:
    def of(values: Column) -> float:
        known = values[~np.isnan(values)]
        return float(np.quantile(known, share)) if known.size else float("nan")

    return of


def _mean(values: Column) -> float:
    return float(np.mean(values)) if values.size else float("nan")


STATISTICS: dict[str, tuple[str, Statistic]] = {
    "first token, median": ("first_token_s", _quantile(0.5)),
    "first token, 95th percentile": ("first_token_s", _quantile(0.95)),
    "time per token, median": ("per_token_s", _quantile(0.5)),
    "time per token, 95th percentile": ("per_token_s", _quantile(0.95)),
    "whole answer, median": ("total_s", _quantile(0.5)),
    "share of good answers": ("good", _mean),
}
"""Name -> (column of the answers, statistic)."""
RATES = {"answers per second": ("answers_per_s", "done"), "tokens per second": ("tokens_per_s", "tokens")}
"""Name -> (figure, column of the timeline that counts it)."""


def compare(first: Mapping[str, Any], second: Mapping[str, Any], seed: int = 0) -> list[Ratio]:
    """Ratios of ``second`` to ``first``. ConfigError if they are of different scenarios or objectives."""
    for what in ("scenario", "objective"):
        if first[what] != second[what]:
            raise ConfigError(f"the results differ in their {what}: {first[what]} and {second[what]}")
    rng = np.random.default_rng(seed)
    sides = [_columns(result) for result in (first, second)]
    found = []
    for name, (column, statistic) in STATISTICS.items():
        values = [statistic(side[column]) for side in sides]
        if not any(np.isnan(value) for value in values):
            found.append(_ratio(name, values, _interval(sides, column, statistic, rng)))
    for name, (key, column) in RATES.items():
        values = [result["figures"][key] for result in (first, second)]
        bins = [_per_block(result["timeline"][column]) for result in (first, second)]
        if all(values):
            found.append(_ratio(name, values, _rate_interval(bins, rng)))
    return found


def _ratio(name: str, values: Sequence[float], interval: tuple[float, float] | None) -> Ratio:
    return Ratio(name, values[0], values[1], values[1] / values[0] if values[0] else float("nan"), interval)


def _columns(result: Mapping[str, Any]) -> dict[str, Column]:
    """Seconds, NaN where nothing was measured; ``good`` is 0 or 1; ``block`` is the number of the time block."""
    answers, objective = result["answers"], result["objective"]
    numbers = {
        name: np.array([np.nan if v is None else v for v in answers[name]], dtype=float)
        for name in ("intended_s", "first_token_s", "per_token_s", "total_s")
    }
    whole = np.array([outcome in ("done", "left", "refused") for outcome in answers["outcome"]], dtype=bool)
    late = 1e3 * np.nan_to_num(numbers["first_token_s"]) > objective["first_token_ms"]
    slow = 1e3 * np.nan_to_num(numbers["per_token_s"]) > objective["per_token_ms"]
    return {
        **numbers,
        "good": (whole & ~late & ~slow).astype(float),
        "block": numbers["intended_s"] // BLOCK_S,
    }


def _interval(
    sides: Sequence[Mapping[str, Column]], column: str, statistic: Statistic, rng: np.random.Generator
) -> tuple[float, float] | None:
    blocks = [[side[column][side["block"] == b] for b in np.unique(side["block"])] for side in sides]
    if min(map(len, blocks)) < MIN_BLOCKS:
        return None
    ratios = []
    for _ in range(NUM_DRAWS):
        first, second = (
            statistic(np.concatenate([own[i] for i in rng.integers(len(own), size=len(own))]))
            for own in blocks
        )
        if first:
            ratios.append(second / first)
    return _middle(ratios)


def _per_block(per_second: Sequence[float | None]) -> Column:
    """Sums of the timeline's counts per BLOCK_S seconds."""
    counts = np.array([value or 0.0 for value in per_second], dtype=float)
    size = int(BLOCK_S)
    whole = counts[: len(counts) // size * size]
    sums: Column = whole.reshape(-1, size).sum(axis=1)
    return sums


def _rate_interval(bins: Sequence[Column], rng: np.random.Generator) -> tuple[float, float] | None:
    if min(map(len, bins)) < MIN_BLOCKS:
        return None
    first, second = (
        rng.choice(counts, size=(NUM_DRAWS, len(counts)), replace=True).mean(axis=1) for counts in bins
    )
    return _middle([b / a for a, b in zip(first, second, strict=True) if a])


def _middle(ratios: Sequence[float]) -> tuple[float, float] | None:
    known = [ratio for ratio in ratios if not np.isnan(ratio)]
    if len(known) < NUM_DRAWS // 2:
        return None
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)


def table(ratios: Sequence[Ratio], files: Sequence[Path]) -> Table:
    """B over A with its interval; a star if the interval excludes 1."""
    shown = Table("", *(file.stem for file in files), "ratio", "95 % interval", "", title_justify="left")
    for ratio in ratios:
        interval = "" if ratio.interval is None else f"{ratio.interval[0]:.3f} to {ratio.interval[1]:.3f}"
        values = (f"{ratio.first:.4g}", f"{ratio.second:.4g}", f"{ratio.ratio:.3f}")
        shown.add_row(ratio.name, *values, interval, "*" if ratio.differs else "")
    return shown


def compared(first: Path, second: Path) -> Table:
    """The table of two files; ConfigError if they are not comparable."""
    return table(compare(read(first), read(second)), (first, second))
