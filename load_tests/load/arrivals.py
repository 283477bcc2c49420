"""Intended send times of requests: ascending seconds from the start of a phase.

Nothing here waits; the generator does. All processes are pure functions of their arguments.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from adasd.errors import ConfigError


def constant(rate_per_s: float, seconds: float) -> Iterator[float]:
    """Evenly spaced, the first one at 0."""
    for number in count():
        at_s = number / rate_per_s
        if at_s >= seconds:
            return
        yield at_s


def poisson(rate_per_s: float, seconds: float, seed: int) -> Iterator[float]:
    """Independent users: exponential gaps with mean ``1 / rate_per_s``."""
    rng, at_s = random.Random(seed), 0.0
    while (at_s := at_s + rng.expovariate(rate_per_s)) < seconds:
        yield at_s


def bursts(rate_per_s: float, size: int, every_s: float, seconds: float, seed: int) -> Iterator[float]:
    """A Poisson process, plus ``size`` requests at once every ``every_s`` seconds."""
    num_bursts = math.ceil(seconds / every_s) - 1
    crowds = [number * every_s for number in range(1, num_bursts + 1) for _ in range(size)]
    yield from sorted([*poisson(rate_per_s, seconds, seed), *crowds])


def trace(file: Path, speed: float = 1.0) -> list[float]:
    """Recorded arrivals: one per line, seconds or a JSON object with ``at_s``; the first one becomes 0.

    ``speed`` 2 replays it twice as fast. ConfigError if a line cannot be read.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the trace {file}: {error}") from error
    times_s = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                found = json.loads(line)
                times_s.append(float(found["at_s"] if isinstance(found, dict) else found))
            except (ValueError, TypeError, KeyError) as error:
                raise ConfigError(
                    f"{file}, line {number}: expected seconds or an object with at_s, found {line[:60]!r}"
                ) from error
    if not times_s:
        raise ConfigError(f"the trace {file} holds no arrival")
    times_s.sort()
    return [(at_s - times_s[0]) / speed for at_s in times_s]
