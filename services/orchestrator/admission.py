"""A bounded queue for target slots, in front of the placement of each request.

A request that gets no slot within ``GRACE_S`` is queued. A full queue means that no slot is free, so further
requests are refused at once and never hang. While there are slots for all requests, waiting has another cause: a
busy machine, or a target that hangs. Then a request counts as queued only after ``SLOW_GRACE_S``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from adasd.errors import Overloaded
from adasd.ports import Drafter, Placement, Verifier
from adasd.rounds import OpenCall

GRACE_S = 0.05
"""Seconds that a free slot may take to be leased; after that the request counts as queued."""
SLOW_GRACE_S = 2.0
"""The same while there are slots for all requests."""


class AdmissionQueue:
    """Counts requests that wait for a target slot, at most ``max_queued``. Belongs to one event loop."""

    def __init__(self, max_queued: int, has_slots: Callable[[], bool] = lambda: False) -> None:
        """``has_slots``: whether there are slots for all requests that run or wait here."""
        self.max_queued, self._has_slots = max_queued, has_slots
        self.num_queued = 0

    @property
    def is_full(self) -> bool:
        return self.num_queued >= self.max_queued

    def refusal(self) -> Overloaded:
        return Overloaded(f"no target slot is free and {self.num_queued} requests wait for one already")

    @contextmanager
    def wait(self, limit: asyncio.Timeout) -> Iterator[None]:
        """Wraps the wait for one slot: after the grace period, takes a place or, in a full queue, ends the wait."""
        loop, placed = asyncio.get_running_loop(), False

        def queue_up() -> None:
            nonlocal placed
            if self.is_full:
                limit.reschedule(loop.time())
            else:
                placed = True
                self.num_queued += 1

        timer = loop.call_later(SLOW_GRACE_S if self._has_slots() else GRACE_S, queue_up)
        try:
            yield
        finally:
            timer.cancel()
            self.num_queued -= placed


class AdmittedPlacement:
    """The placement of one request (adasd.ports.Placement): it queues for its first target.

    An admitted request that loses its target does not queue again.
    """

    def __init__(self, inner: Placement, queue: AdmissionQueue) -> None:
        self._inner, self._queue, self._admitted = inner, queue, False

    @property
    def draft_names(self) -> tuple[str, ...]:
        return self._inner.draft_names

    async def attach_target(self, call: OpenCall) -> Verifier:
        """As in the wrapped placement; Overloaded, after the grace period at most, if slots and queue are full."""
        if self._admitted:
            return await self._inner.attach_target(call)
        if self._queue.max_queued and self._queue.is_full:
            raise self._queue.refusal()
        try:
            async with asyncio.timeout(None) as limit:
                with self._queue.wait(limit):
                    slot = await self._inner.attach_target(call)
        except TimeoutError:
            raise self._queue.refusal() from None
        self._admitted = True
        return slot

    async def attach_draft(self, call: OpenCall, name: str | None = None) -> Drafter:
        return await self._inner.attach_draft(call, name)
