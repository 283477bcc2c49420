"""Asks for a lease again where the replica that Serve chose says nothing.

A replica that hangs holds every call that Serve sends it. Serve goes by the queue lengths that it remembers until its
health check fails, which takes a quarter of a minute. So another lease is asked for meanwhile; the first grant is kept,
and the other calls end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from services.orchestrator.held_leases import LeaseStream
from services.orchestrator.placement import LEASE, LeaseClient

ASK_AGAIN_S = (0.3, 1.0, 3.0)
"""Pauses between the first call for a lease and the next ones. In a full service that waits longer than this, a request
may hold a few places in the queue of a target; it still gets one slot.
"""


class HedgedLeaseClient:
    """A LeaseClient around another one."""

    def __init__(self, client: LeaseClient, pauses_s: Sequence[float] = ASK_AGAIN_S) -> None:
        self._client, self._pauses_s = client, pauses_s

    def __call__(self, session: str) -> LeaseStream:
        return _HedgedLease(self._client, session, self._pauses_s)


class _HedgedLease:
    """A LeaseStream. Its first item is the first grant, with LEASE; what follows comes from that call."""

    def __init__(self, client: Callable[[str], LeaseStream], session: str, pauses_s: Sequence[float]) -> None:
        self._client, self._session, self._pauses_s = client, session, pauses_s
        self._calls: dict[asyncio.Future[dict[str, Any]], tuple[str, LeaseStream]] = {}
        self._granted: LeaseStream | None = None
        self._num_asked = 0

    async def __anext__(self) -> dict[str, Any]:
        if self._granted is not None:
            return await self._granted.__anext__()
        try:
            return await self._first_grant()
        finally:
            self._end_calls()

    def cancel(self) -> None:
        self._end_calls()
        if self._granted is not None:
            self._granted.cancel()

    async def _first_grant(self) -> dict[str, Any]:
        """The error of the last call, if all end without a grant."""
        pauses_s = iter(self._pauses_s)
        self._ask()
        while True:
            done, _ = await asyncio.wait(
                self._calls, timeout=next(pauses_s, None), return_when=asyncio.FIRST_COMPLETED
            )
            if not self._calls:
                raise asyncio.CancelledError("the lease was cancelled before its grant")
            if not done:
                self._ask()
            for answer in done:
                lease, stream = self._calls.pop(answer)
                try:
                    grant = answer.result()
                except (
                    Exception,
                    asyncio.CancelledError,
                ):  # Serve cancels the streams of a replica that died
                    stream.cancel()
                    if not self._calls:
                        raise
                else:
                    self._granted = stream
                    return {**grant, LEASE: lease}

    def _ask(self) -> None:
        lease = f"{self._session}.{self._num_asked}" if self._num_asked else self._session
        self._num_asked += 1
        stream = self._client(lease)
        self._calls[asyncio.ensure_future(stream.__anext__())] = lease, stream

    def _end_calls(self) -> None:
        while self._calls:
            answer, (_, stream) = self._calls.popitem()
            answer.add_done_callback(partial(_end, stream))
            answer.cancel()


def _end(stream: LeaseStream, answer: asyncio.Future[dict[str, Any]]) -> None:
    """Once nothing waits on the stream any more."""
    if not answer.cancelled():
        answer.exception()
    stream.cancel()
