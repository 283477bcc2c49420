"""An asyncio loop whose clock jumps to the next timer, so that code written for asyncio runs in virtual time.

Nothing waits and nothing is read from a socket: where a loop would wait for I/O, this one moves its clock.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

R = TypeVar("R")


class NothingLeft(RuntimeError):
    """Every task waits for something that no timer and no other task will bring about."""


class _ClockSelector(selectors.SelectSelector):
    """Where a loop would wait, the clock moves on. The loop registers only its own wake-up socket."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise NothingLeft("the simulation stands still: every task waits, and no timer is set")
        self.now_s += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its ``time`` starts at 0 seconds and advances only while every task waits."""

    def __init__(self) -> None:
        self._clock = _ClockSelector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now_s


def run(main: Coroutine[Any, Any, R]) -> R:
    """Run to the end, as ``asyncio.run`` does. Raises NothingLeft if it would wait forever."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def now_s() -> float:
    """The running loop's time in seconds (an ``adasd.ports.Clock``)."""
    return asyncio.get_running_loop().time()
