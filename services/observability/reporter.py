"""Keeps a replica's snapshot on the board while the replica lives, and answers scrapes with everybody's."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from itertools import count
from typing import Any, Protocol

from prometheus_client.registry import Collector

from services.observability.snapshot import Snapshot, render, take

log = logging.getLogger(__name__)

PERIOD_S = 2.0
TIMEOUT_S = 2.0
"""For one word with the board; a scrape is answered without it then."""


class BoardLink(Protocol):
    """The way to the board (a Serve handle in production)."""

    async def pin(self, snapshot: Snapshot) -> None: ...
    async def exchange(self, snapshot: Snapshot) -> tuple[Snapshot, ...]: ...
    async def take_down(self, replica: str) -> None: ...


class HandleLink:
    """A BoardLink over the Serve handle of services.observability.board.BoardDeployment."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    async def pin(self, snapshot: Snapshot) -> None:
        await self._handle.pin.remote(snapshot)

    async def exchange(self, snapshot: Snapshot) -> tuple[Snapshot, ...]:
        answer: tuple[Snapshot, ...] = await self._handle.exchange.remote(snapshot)
        return answer

    async def take_down(self, replica: str) -> None:
        await self._handle.take_down.remote(replica)


class Reporter:
    """One per replica. Without a link (tests, local mode) a scrape shows this replica alone."""

    def __init__(self, collector: Collector, replica: str, role: str, link: BoardLink | None = None) -> None:
        self._collector, self._replica, self._role, self._link = collector, replica, role, link
        self._numbers = count(1)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Report every PERIOD_S seconds from now on."""
        if self._link is not None and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._keep_reporting(self._link))

    async def stop(self) -> None:
        """End reporting and take the snapshot down. Idempotent; never fails."""
        task, self._task = self._task, None
        if task is None or self._link is None:
            return
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        with contextlib.suppress(Exception):  # the board may have gone first
            async with asyncio.timeout(TIMEOUT_S):
                await self._link.take_down(self._replica)

    async def scrape(self) -> bytes:
        """The Prometheus text of all replicas; of this one alone while the board cannot be reached."""
        return render(await self.everybody())

    async def everybody(self) -> tuple[Snapshot, ...]:
        """The newest snapshot of every replica; of this one alone while the board cannot be reached."""
        own = self._take()
        if self._link is None:
            return (own,)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await self._link.exchange(own)
        except Exception as error:
            log.warning("figures of this replica alone: the board does not answer (%s)", type(error).__name__)
            return (own,)

    async def _keep_reporting(self, link: BoardLink) -> None:
        while True:
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    await link.pin(self._take())
            except Exception as error:
                log.debug("the board does not answer (%s: %s)", type(error).__name__, error)
            await asyncio.sleep(PERIOD_S)

    def _take(self) -> Snapshot:
        return take(self._collector, self._replica, self._role, next(self._numbers))
