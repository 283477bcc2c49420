"""What computes: a device shared by everything that runs on it, and a process that does one thing at a time."""

from __future__ import annotations

import asyncio
from heapq import heappop, heappush
from math import ceil


class Device:
    """A machine with ``cores`` cores, or a card (one core).

    Jobs run at full speed while there are no more of them than cores; otherwise they share the cores equally
    (processor sharing), also with ``background`` threads of other work that always run.
    """

    def __init__(self, cores: float = 1.0, background: float = 0.0) -> None:
        self._cores, self._background = cores, background
        self._jobs: list[tuple[float, int, asyncio.Future[None]]] = []  # heap: work at which the job ends
        self._num_begun = 0
        self._work_s = 0.0  # done for each job since the start
        self._since_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.busy_s = 0.0  # core seconds given to jobs

    async def run(self, seconds: float) -> None:
        """Compute for ``seconds`` of one core."""
        if seconds <= 0.0:
            return
        loop = asyncio.get_running_loop()
        self._advance(loop.time())
        self._num_begun += 1
        done = loop.create_future()
        heappush(self._jobs, (self._work_s + seconds, self._num_begun, done))
        self._arm(loop)
        await done

    @property
    def _speed(self) -> float:
        """Of one job, relative to a core of its own."""
        return min(1.0, self._cores / (len(self._jobs) + self._background)) if self._jobs else 0.0

    def _advance(self, now_s: float) -> None:
        passed_s, self._since_s = now_s - self._since_s, now_s
        self._work_s += passed_s * self._speed
        self.busy_s += passed_s * self._speed * len(self._jobs)

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if self._jobs:
            left_s = max(0.0, self._jobs[0][0] - self._work_s)
            self._timer = loop.call_later(left_s / self._speed, self._end, loop)

    def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        self._advance(loop.time())
        while self._jobs and self._jobs[0][0] <= self._work_s + 1e-12:
            done = heappop(self._jobs)[2]
            if not done.done():
                done.set_result(None)
        self._arm(loop)


SLICE_S = 5e-4
"""What an event loop does of one request before it serves the others: a request is dozens of callbacks."""


class Process:
    """One event loop, on a shared device or a core of its own.

    On a shared device it works in slices, in turn for all that wait; on a core of its own in the order of arrival.
    """

    def __init__(self, device: Device | None) -> None:
        self.device = device
        self._turn = asyncio.Lock()
        self._free_s = 0.0  # when its own core has done everything so far

    async def run(self, seconds: float) -> None:
        """Compute for ``seconds`` beside everything else that this process has to do."""
        if seconds <= 0.0:
            return
        if self.device is not None:
            num_slices = ceil(seconds / SLICE_S)
            for _ in range(num_slices):
                async with self._turn:
                    await self.device.run(seconds / num_slices)
            return
        now_s = asyncio.get_running_loop().time()
        self._free_s = max(now_s, self._free_s) + seconds
        await asyncio.sleep(self._free_s - now_s)


async def compute(device: Device | None, seconds: float) -> None:
    """Compute on a shared device, or on one of its own."""
    if device is None:
        await asyncio.sleep(seconds)
    else:
        await device.run(seconds)
