"""Where all replicas of a deployment pin up their newest snapshot, so that one scrape sees all of them."""

from __future__ import annotations

import time

from adasd.ports import Clock
from services.observability.snapshot import Snapshot

TTL_S = 15.0
"""A replica that has not reported for so long is gone, and its series with it."""


class Board:
    """The newest snapshot of every living replica. Owned by one process, so what it answers never goes back."""

    def __init__(self, ttl_s: float = TTL_S, clock: Clock = time.monotonic) -> None:
        self._ttl_s, self._clock = ttl_s, clock
        self._newest: dict[str, tuple[Snapshot, float]] = {}  # replica -> snapshot, when it came (seconds)

    def pin(self, snapshot: Snapshot) -> None:
        """Keep it, unless a newer one of the same replica overtook it on the way."""
        known = self._newest.get(snapshot.replica)
        if known is None or known[0].number < snapshot.number:
            self._newest[snapshot.replica] = snapshot, self._clock()

    def take_down(self, replica: str) -> None:
        """Forget a replica that ends."""
        self._newest.pop(replica, None)

    def all(self) -> tuple[Snapshot, ...]:
        """What is pinned up, by role and name of the replica."""
        oldest_s = self._clock() - self._ttl_s
        self._newest = {name: entry for name, entry in self._newest.items() if entry[1] >= oldest_s}
        return tuple(sorted((entry[0] for entry in self._newest.values()), key=lambda s: (s.role, s.replica)))


class BoardDeployment:
    """The board as a Serve deployment of exactly one replica (cluster.app decorates it)."""

    def __init__(self) -> None:
        self.board = Board()

    async def pin(self, snapshot: Snapshot) -> None:
        self.board.pin(snapshot)

    async def exchange(self, snapshot: Snapshot) -> tuple[Snapshot, ...]:
        """Pin a snapshot and see all: what a scrape shows is never older than what one before showed."""
        self.board.pin(snapshot)
        return self.board.all()

    async def take_down(self, replica: str) -> None:
        self.board.take_down(replica)
