"""The one small process that all replicas share: metrics snapshots, and what API keys have used."""

from __future__ import annotations

from collections.abc import Mapping

from adasd.errors import RateLimited
from services.config import ApiKey
from services.gateway.auth.key_uses import KeyUses
from services.observability.snapshot_store import SnapshotStoreDeployment

SILENT_S = 5.0
"""An orchestrator that has not been heard for so long is gone, and its answers with it."""


class SharedStoreDeployment(SnapshotStoreDeployment):
    """A Serve deployment of exactly one replica (cluster.app decorates it)."""

    def __init__(self) -> None:
        super().__init__()
        self.uses = KeyUses(silent_s=SILENT_S)

    async def take(self, key: ApiKey, num: int, holder: str) -> RateLimited | None:
        return self.uses.take(key, num, holder)

    async def give_back(self, name: str, num: int, holder: str, begun: bool = True) -> None:
        self.uses.give_back(name, num, holder, begun)

    async def hear(self, holder: str, running: Mapping[str, int]) -> None:
        self.uses.hear(holder, running)
