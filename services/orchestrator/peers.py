"""The other orchestrator replicas, reached over Serve's own list of them (services.gateway.peers.Peers)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from services.observability.replica_loads import loads_of
from services.observability.snapshot import ReplicaSnapshot
from services.transport.generation_messages import Loads

log = logging.getLogger(__name__)

TIMEOUT_S = 3.0
"""Timeout for all replicas to answer one call."""

Broadcast = Callable[[tuple[str, ...]], Awaitable[Sequence[object]]]
"""Tells every replica to abort these; returns what each of them aborted, or its error."""


class OrchestratorPeers:
    """``broadcast`` reaches every replica, ``snapshots`` are the newest reports of all replicas."""

    def __init__(
        self, broadcast: Broadcast, snapshots: Callable[[], Awaitable[tuple[ReplicaSnapshot, ...]]]
    ) -> None:
        self._broadcast, self._snapshots = broadcast, snapshots

    async def abort(self, request_ids: Sequence[str]) -> tuple[str, ...]:
        """A replica that does not answer in time counts as having aborted nothing."""
        asked = tuple(dict.fromkeys(request_ids))
        if not asked:
            return ()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answers = await self._broadcast(asked)
        except Exception as error:
            log.warning("abort did not reach the other replicas: %r", error)
            return ()
        aborted: set[str] = set()
        for answer in answers:
            if isinstance(answer, tuple):
                aborted |= set(answer)
            else:
                log.warning("a replica did not answer an abort: %r", answer)
        return tuple(name for name in asked if name in aborted)

    async def loads(self) -> Loads:
        return loads_of(await self._snapshots())
