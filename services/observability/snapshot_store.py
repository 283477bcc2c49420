"""Keeps the latest metrics snapshot of every replica, so that one scrape shows all of them."""

from __future__ import annotations

import time

from adasd.ports import Clock
from services.observability.logs import lose_what_cannot_be_written
from services.observability.snapshot import ReplicaSnapshot

TTL_S = 15.0
"""Seconds after which a silent replica counts as gone; its series disappear."""


class SnapshotStore:
    """The latest snapshot of every live replica. One process owns it, so that counters never decrease."""

    def __init__(self, ttl_s: float = TTL_S, clock: Clock = time.monotonic) -> None:
        self._ttl_s, self._clock = ttl_s, clock
        self._newest: dict[str, tuple[ReplicaSnapshot, float]] = {}  # replica -> snapshot, arrival (seconds)

    def put(self, snapshot: ReplicaSnapshot) -> None:
        """Keep the snapshot, unless a newer one of the same replica has arrived already."""
        known = self._newest.get(snapshot.replica)
        if known is None or known[0].number < snapshot.number:
            self._newest[snapshot.replica] = snapshot, self._clock()

    def remove(self, replica: str) -> None:
        """Forget a replica that shuts down."""
        self._newest.pop(replica, None)

    def all(self) -> tuple[ReplicaSnapshot, ...]:
        """All snapshots, ordered by role and replica."""
        oldest_s = self._clock() - self._ttl_s
        self._newest = {name: entry for name, entry in self._newest.items() if entry[1] >= oldest_s}
        return tuple(sorted((entry[0] for entry in self._newest.values()), key=lambda s: (s.role, s.replica)))


class SnapshotStoreDeployment:
    """The store as a Serve deployment of exactly one replica (services.orchestrator.shared_store)."""

    def __init__(self) -> None:
        lose_what_cannot_be_written()
        self.store = SnapshotStore()

    async def put(self, snapshot: ReplicaSnapshot) -> None:
        self.store.put(snapshot)

    async def exchange(self, snapshot: ReplicaSnapshot) -> tuple[ReplicaSnapshot, ...]:
        """Put a snapshot and get all snapshots, so that no scrape shows less than the one before."""
        self.store.put(snapshot)
        return self.store.all()

    async def remove(self, replica: str) -> None:
        self.store.remove(replica)
