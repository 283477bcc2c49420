"""How much every API key has used, in one process or in several that share the counts, and whether it may have more."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Protocol

from adasd.errors import RateLimited
from adasd.ports import Clock
from services.config import ApiKey

WINDOW_S = 60.0


class Uses(Protocol):
    """What a key ring asks before an answer begins."""

    async def take(self, key: ApiKey, num: int) -> None:
        """Count ``num`` more answers of a key; RateLimited if those are too many."""
        ...

    async def give_back(self, key: ApiKey, num: int, begun: bool = True) -> None:
        """These answers have ended. ``begun`` False: they never began, so they do not count per minute either."""
        ...


@dataclass(slots=True)
class _Holder:
    """One process whose answers count."""

    heard_s: float
    running: Counter[str] = field(default_factory=Counter)  # answers by name of the key
    doubts: dict[str, tuple[int, int]] = field(default_factory=dict)  # reported and counted, if they differed


class KeyUses:
    """Running answers and starts in the last WINDOW_S seconds, by key and holder.

    A holder that is silent for ``silent_s`` seconds is gone with its answers.
    """

    def __init__(self, clock: Clock = time.monotonic, silent_s: float = inf) -> None:
        self._clock, self._silent_s = clock, silent_s
        self._holders: dict[str, _Holder] = {}
        self._begun_s: dict[str, deque[float]] = {}  # starts by key, oldest first

    def running(self, name: str) -> int:
        """Running answers of the key with that name."""
        oldest_s = self._clock() - self._silent_s
        self._holders = {who: one for who, one in self._holders.items() if one.heard_s >= oldest_s}
        return sum(one.running[name] for one in self._holders.values())

    def take(self, key: ApiKey, num: int, holder: str = "") -> RateLimited | None:
        """Count ``num`` more answers; or why the key may not have them."""
        now_s, begun_s = self._clock(), self._begun_s.setdefault(key.name, deque())
        while begun_s and begun_s[0] <= now_s - WINDOW_S:
            begun_s.popleft()
        per_minute, at_once = key.requests_per_minute, key.max_concurrent
        if per_minute is not None and len(begun_s) + num > per_minute:
            oldest = (
                min(len(begun_s) + num - per_minute, len(begun_s)) - 1
            )  # has to leave before there is room
            wait_s = round(begun_s[oldest] + WINDOW_S - now_s, 3) if begun_s else WINDOW_S
            return RateLimited(
                f"the API key {key.name!r} may have {per_minute} answers per minute here", wait_s
            )
        if at_once is not None and self.running(key.name) + num > at_once:
            return RateLimited(f"the API key {key.name!r} may have {at_once} answers at once here", 1.0)
        self.add(key, num, holder)
        return None

    def add(self, key: ApiKey, num: int, holder: str = "") -> None:
        """Count ``num`` more answers, whatever the limits."""
        if key.requests_per_minute is not None:
            self._begun_s.setdefault(key.name, deque()).extend([self._clock()] * num)
        self._heard(holder).running[key.name] += num

    def give_back(self, name: str, num: int, holder: str = "", begun: bool = True) -> None:
        """These answers have ended, or never began."""
        begun_s = self._begun_s.get(name, ())
        for _ in range(0 if begun else min(num, len(begun_s))):
            self._begun_s[name].pop()
        running = self._heard(holder).running
        running[name] = max(0, running[name] - num)

    def hear(self, holder: str, running: Mapping[str, int]) -> None:
        """A holder reports what it runs, now and then.

        A new one is believed at once. Messages may be lost, so another number is believed if it is reported twice and
        nothing was counted in between.
        """
        if holder not in self._holders:
            self._heard(holder).running.update(running)
            return
        known = self._heard(holder)
        differ = {
            name: (running.get(name, 0), known.running[name])
            for name in {*running, *known.running}
            if running.get(name, 0) != known.running[name]
        }
        for name, (reported, counted) in differ.items():
            if known.doubts.get(name) == (reported, counted):
                known.running[name] = reported
        known.doubts = differ

    def _heard(self, holder: str) -> _Holder:
        known = self._holders.setdefault(holder, _Holder(0.0))
        known.heard_s = self._clock()
        return known


class OwnUses:
    """The uses of this process alone."""

    def __init__(self, counted: KeyUses | None = None) -> None:
        self._counted = counted or KeyUses()

    async def take(self, key: ApiKey, num: int) -> None:
        if (refusal := self._counted.take(key, num)) is not None:
            raise refusal

    async def give_back(self, key: ApiKey, num: int, begun: bool = True) -> None:
        self._counted.give_back(key.name, num, begun=begun)
