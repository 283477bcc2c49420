"""When requests arrive: a process by name, or a recorded trace. Rising seconds from the start, as one array."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adasd.errors import ConfigError

Seconds = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Requests in time, and the tokens of their answers where a trace tells them (else None)."""

    times_s: Seconds
    num_tokens: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.times_s)


def poisson(rate: float, seconds: float, chance: np.random.Generator) -> Seconds:
    """Independent users: exponential gaps of mean ``1 / rate``."""
    number = int(rate * seconds + 6 * math.sqrt(rate * seconds) + 10)
    times_s = np.cumsum(chance.exponential(1.0 / rate, number))
    return times_s[times_s < seconds]


def thinned(
    rate: Callable[[Seconds], Seconds], most: float, seconds: float, chance: np.random.Generator
) -> Seconds:
    """A Poisson process whose rate changes with time and never exceeds ``most`` (Lewis and Shedler, 1979)."""
    times_s = poisson(most, seconds, chance)
    return times_s[chance.random(len(times_s)) * most < rate(times_s)]


def diurnal(low: float, high: float, period: float, seconds: float, chance: np.random.Generator) -> Seconds:
    """Days of ``period`` seconds: the rate swings between ``low`` at their ends and ``high`` at noon."""

    def rate(times_s: Seconds) -> Seconds:
        return low + (high - low) * (1 - np.cos(2 * math.pi * times_s / period)) / 2

    return thinned(rate, high, seconds, chance)


def bursts(rate: float, size: float, every: float, seconds: float, chance: np.random.Generator) -> Seconds:
    """A Poisson process, and ``size`` requests at once every ``every`` seconds."""
    crowds = np.repeat(np.arange(every, seconds, every), int(size))
    return np.sort(np.concatenate([poisson(rate, seconds, chance), crowds]))


PROCESSES: dict[str, dict[str, float | None]] = {
    "poisson": {"rate": None, "seconds": 600.0},
    "diurnal": {"low": None, "high": None, "period": 86400.0, "seconds": 86400.0},
    "bursts": {"rate": None, "size": None, "every": 60.0, "seconds": 600.0},
}
"""Parameters by process, with their defaults; None: must be given. Rates are requests per second."""


def arrivals(text: str, seed: int) -> Arrivals:
    """``poisson:rate=5,seconds=600``, or the name of a trace file. ConfigError."""
    name, _, given = text.partition(":")
    if name not in PROCESSES:
        if Path(text).exists():
            return read_trace(Path(text))
        raise ConfigError(
            f"{text!r} is neither a file nor one of {', '.join(PROCESSES)}, for example poisson:rate=5"
        )
    chance = np.random.default_rng(seed)
    values = _values(name, given)
    if name == "poisson":
        return Arrivals(poisson(values["rate"], values["seconds"], chance))
    if name == "bursts":
        return Arrivals(bursts(values["rate"], values["size"], values["every"], values["seconds"], chance))
    if values["low"] > values["high"]:
        raise ConfigError(
            f"diurnal: low is {values['low']:g} and high is {values['high']:g}; low cannot exceed high"
        )
    return Arrivals(diurnal(values["low"], values["high"], values["period"], values["seconds"], chance))


def _values(name: str, given: str) -> Mapping[str, float]:
    known = PROCESSES[name]
    found = {key: value for key, value in known.items() if value is not None}
    for part in filter(None, given.split(",")):
        key, _, value = part.partition("=")
        if key not in known:
            raise ConfigError(f"{name} has no {key!r}; it takes {', '.join(known)}")
        try:
            found[key] = float(value)
        except ValueError:
            raise ConfigError(f"{name}: {key} must be a number, not {value!r}") from None
        if not 0 < found[key] < math.inf:
            raise ConfigError(f"{name}: {key} must be above 0, not {value}")
    if missing := [key for key in known if key not in found]:
        raise ConfigError(f"{name} needs {' and '.join(missing)}, for example {name}:{missing[0]}=5")
    return found


def read_trace(file: Path) -> Arrivals:
    """One request per line: seconds, or a JSON object with ``at_s`` and perhaps ``tokens``; the first becomes 0.

    ConfigError for a line that cannot be read, times that run backwards, or tokens on some lines only.
    """
    try:
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the trace {file}: {error}") from error
    times_s, num_tokens = list[float](), list[float]()
    for number, line in enumerate(lines, 1):
        try:
            found = json.loads(line)
            at_s = float(found["at_s"] if isinstance(found, dict) else found)
            tokens = float(found["tokens"]) if isinstance(found, dict) and "tokens" in found else None
        except (ValueError, TypeError, KeyError):
            raise ConfigError(
                f"{file}, line {number}: expected seconds or an object with at_s, found {line[:60]!r}"
            ) from None
        if not math.isfinite(at_s) or (times_s and at_s < times_s[-1]):
            raise ConfigError(
                f"{file}, line {number}: {at_s:g} s comes behind {times_s[-1] if times_s else 0:g} s; "
                "sort the trace by time"
            )
        times_s.append(at_s)
        if tokens is not None:
            if not 1 <= tokens < math.inf:
                raise ConfigError(
                    f"{file}, line {number}: an answer of {tokens:g} tokens; it needs at least 1"
                )
            num_tokens.append(tokens)
    if not times_s:
        raise ConfigError(f"the trace {file} holds no request")
    if num_tokens and len(num_tokens) != len(times_s):
        raise ConfigError(
            f"{file}: {len(num_tokens)} of {len(times_s)} lines have tokens; give them on all lines or none"
        )
    return Arrivals(np.asarray(times_s) - times_s[0], np.asarray(num_tokens) if num_tokens else None)
