"""Sends a replica's metrics to the snapshot store, and answers scrapes with the metrics of all replicas."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from itertools import count
from typing import Any, Protocol

from prometheus_client.registry import Collector

from services.observability.snapshot import ReplicaSnapshot, render, take

log = logging.getLogger(__name__)

PERIOD_S = 2.0
TIMEOUT_S = 2.0
"""Seconds to wait for the store; after that, a scrape shows only this replica."""


class SnapshotStoreLink(Protocol):
    """Connection to the snapshot store (a Serve handle in production)."""

    async def put(self, snapshot: ReplicaSnapshot) -> None: ...
    async def exchange(self, snapshot: ReplicaSnapshot) -> tuple[ReplicaSnapshot, ...]: ...
    async def remove(self, replica: str) -> None: ...


class HandleLink:
    """A SnapshotStoreLink over the Serve handle of SnapshotStoreDeployment."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    async def put(self, snapshot: ReplicaSnapshot) -> None:
        await self._handle.put.remote(snapshot)

    async def exchange(self, snapshot: ReplicaSnapshot) -> tuple[ReplicaSnapshot, ...]:
        answer: tuple[ReplicaSnapshot, ...] = await self._handle.exchange.remote(snapshot)
        return answer

    async def remove(self, replica: str) -> None:
        await self._handle.remove.remote(replica)


class Reporter:
    """One per replica. Without a link (tests, local mode) a scrape shows only this replica."""

    def __init__(
        self, collector: Collector, replica: str, role: str, link: SnapshotStoreLink | None = None
    ) -> None:
        self._collector, self._replica, self._role, self._link = collector, replica, role, link
        self._numbers = count(1)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Send a snapshot every PERIOD_S seconds from now on."""
        if self._link is not None and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._keep_reporting(self._link))

    async def stop(self) -> None:
        """Stop sending and remove the snapshot. Idempotent; never fails."""
        task, self._task = self._task, None
        if task is None or self._link is None:
            return
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        with contextlib.suppress(Exception):  # the store may have ended first
            async with asyncio.timeout(TIMEOUT_S):
                await self._link.remove(self._replica)

    async def scrape(self) -> bytes:
        """The Prometheus text of all replicas, or only of this one while the store cannot be reached."""
        return render(await self.all_snapshots())

    async def all_snapshots(self) -> tuple[ReplicaSnapshot, ...]:
        """The latest snapshot of every replica, or only of this one while the store cannot be reached."""
        own = self._take()
        if self._link is None:
            return (own,)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await self._link.exchange(own)
        except Exception as error:
            log.warning(
                "metrics of this replica alone: the snapshot store does not answer (%s)", type(error).__name__
            )
            return (own,)

    async def _keep_reporting(self, link: SnapshotStoreLink) -> None:
        while True:
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    await link.put(self._take())
            except Exception as error:
                log.debug("the snapshot store does not answer (%s: %s)", type(error).__name__, error)
            await asyncio.sleep(PERIOD_S)

    def _take(self) -> ReplicaSnapshot:
        return take(self._collector, self._replica, self._role, next(self._numbers))
