"""Exact intervals and tests for shares, the bootstrap for ratios of speed, and Holm's correction.

Nothing here draws random numbers of its own: equal data give equal figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import betainc, betaincinv

Array = NDArray[np.float64]

LEVEL = 0.95
NUM_RESAMPLES = 2000
"""Bootstrap resamples of an interval."""
NUM_QUANTILES = 800
"""Points of the numerical integration over a share."""


class Interval(NamedTuple):
    """An estimate and its 95 % confidence interval."""

    value: float
    low: float
    high: float


def share(num_right: int, num: int) -> Interval:
    """Clopper-Pearson interval of a share: at least 95 % whatever the truth. (0, 0, 1) without data."""
    if not num:
        return Interval(0.0, 0.0, 1.0)
    tail = (1 - LEVEL) / 2
    low = float(betaincinv(num_right, num - num_right + 1, tail)) if num_right else 0.0
    high = float(betaincinv(num_right + 1, num - num_right, 1 - tail)) if num_right < num else 1.0
    return Interval(num_right / num, low, high)


def paired_difference(ours: Sequence[bool], theirs: Sequence[bool]) -> Interval:
    """Difference of two shares over the same questions; no normal approximation.

    The melded interval of Fay and Lumbard (Statistics in Medicine 40, 2021), compatible with McNemar's exact test.
    Where none of n answers differs, it excludes what a share of 0 in n excludes: with 40 answers, 8.8 points.
    """
    gained, lost, num = _discordant(ours, theirs)
    if not num:
        return Interval(0.0, -1.0, 1.0)
    return Interval((gained - lost) / num, -_upper(lost, gained, num), _upper(gained, lost, num))


def not_worse(ours: Sequence[bool], theirs: Sequence[bool], margin: float) -> float:
    """One-sided p-value of "our share is lower by ``margin`` or more"; small: the loss is below the margin.

    It is below 2.5 % iff the interval of ``paired_difference`` lies above ``-margin``.
    """
    gained, lost, num = _discordant(ours, theirs)
    return 1.0 if not num else 1 - _chance_below(lost, gained, num, margin)


def _discordant(ours: Sequence[bool], theirs: Sequence[bool]) -> tuple[int, int, int]:
    gained = sum(a and not b for a, b in zip(ours, theirs, strict=True))
    lost = sum(b and not a for a, b in zip(ours, theirs, strict=True))
    return gained, lost, len(ours)


@lru_cache(maxsize=4096)
def _upper(gained: int, lost: int, num: int) -> float:
    """Upper end of the interval of (gained - lost) / num."""
    wanted = (1 + LEVEL) / 2
    if _chance_below(gained, lost, num, 1 - 1e-9) < wanted:
        return 1.0
    return float(brentq(lambda at: _chance_below(gained, lost, num, at) - wanted, -1.0, 1 - 1e-9, xtol=1e-6))


def _chance_below(gained: int, lost: int, num: int, at: float) -> float:
    """Confidence that the difference is at most ``at``.

    The difference is D (2 G - 1): D is the share of discordant pairs, G the share of gained ones among them. Both get
    their Clopper-Pearson confidence distributions, G the upper one, and D the upper one where 2 G > 1 and the lower
    one where not.
    """
    quantiles = (np.arange(NUM_QUANTILES) + 0.5) / NUM_QUANTILES
    share_N = betaincinv(gained + 1, lost, quantiles) if lost else np.ones(NUM_QUANTILES)
    sign_N = 2 * share_N - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        limit_N = np.clip(np.where(sign_N != 0, at / sign_N, np.inf), 0.0, 1.0)
    discordant = gained + lost
    high_N = betainc(discordant + 1, num - discordant, limit_N) if discordant < num else (limit_N >= 1.0)
    low_N = betainc(discordant, num - discordant + 1, limit_N) if discordant else np.ones(NUM_QUANTILES)
    if at >= 0:
        return float(np.where(sign_N > 0, high_N, 1.0).mean())
    return float(np.where(sign_N < 0, 1 - low_N, 0.0).mean())


def speed_ratio(
    ours: Sequence[tuple[float, float]], theirs: Sequence[tuple[float, float]], *, seed: int = 0
) -> Interval:
    """Ratio of tokens per time, each side a (tokens, time) per prompt; 95 % by bootstrap over the shared prompts."""
    return between(_ratio(np.ones((1, len(ours))), ours, theirs).item(), resampled_ratios(ours, theirs, seed))


def between(value: float, resampled: Array) -> Interval:
    """The interval that holds 95 % of the resampled values."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(resampled, (tail, 1 - tail))
    return Interval(value, float(low), float(high))


def at_most(resampled: Array, bound: float) -> float:
    """One-sided bootstrap p-value of "the ratio is at most ``bound``"; small: it is above."""
    return (1 + int((resampled <= bound).sum())) / (1 + len(resampled))


def resampled_ratios(
    ours: Sequence[tuple[float, float]], theirs: Sequence[tuple[float, float]], seed: int = 0
) -> Array:
    """The ratio of speeds under NUM_RESAMPLES draws of the prompts; equal seeds draw the same prompts."""
    num = len(ours)
    weights_RN = np.random.default_rng(seed).multinomial(num, np.full(num, 1 / num), NUM_RESAMPLES)
    return _ratio(weights_RN.astype(np.float64), ours, theirs)


def _ratio(
    weights_RN: Array, ours: Sequence[tuple[float, float]], theirs: Sequence[tuple[float, float]]
) -> Array:
    (our_tokens, our_time), (their_tokens, their_time) = (
        (weights_RN @ np.asarray(s)).T for s in (ours, theirs)
    )
    return np.asarray(our_tokens / our_time / (their_tokens / their_time))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p-values (1979): all those below 5 % hold together with 95 % confidence."""
    adjusted, largest = dict[str, float](), 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}
