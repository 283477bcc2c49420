"""Limits of API keys over several orchestrators: each asks the shared store before an answer of a limited key begins.

Without the store, each allows its share of every limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from adasd.errors import RateLimited
from services.config import ApiKey
from services.gateway.auth.key_ring import shares
from services.gateway.auth.key_uses import KeyUses

log = logging.getLogger(__name__)

TIMEOUT_S = 1.0
PERIOD_S = 1.0
"""Between two reports of what runs here."""


class SharedStoreLink(Protocol):
    """Connection to services.orchestrator.shared_store (a Serve handle in production)."""

    async def take(self, key: ApiKey, num: int, holder: str) -> RateLimited | None: ...
    async def give_back(self, name: str, num: int, holder: str, begun: bool) -> None: ...
    async def hear(self, holder: str, running: Mapping[str, int]) -> None: ...


class SharedUses:
    """The uses of all orchestrators (services.gateway.auth.key_uses.Uses), for one of them."""

    def __init__(
        self, store: SharedStoreLink, holder: str, keys: Sequence[ApiKey], num_replicas: int
    ) -> None:
        """``holder``: this replica's name."""
        self._store, self._holder = store, holder
        self._shares = {key.name: key for key in shares(keys, num_replicas)}
        self._own = KeyUses()
        self._reporting: asyncio.Task[None] | None = None

    async def take(self, key: ApiKey, num: int) -> None:
        if not is_limited(key):
            return
        try:
            async with asyncio.timeout(TIMEOUT_S):
                refusal = await self._store.take(key, num, self._holder)
        except Exception as error:
            log.warning("limits of this replica alone: the shared store does not answer (%r)", error)
            refusal = self._own.take(self._shares[key.name], num)
        else:
            if refusal is None:
                self._own.add(key, num)
        if refusal is not None:
            raise refusal

    async def give_back(self, key: ApiKey, num: int, begun: bool = True) -> None:
        """Waited for: a client with its whole answer may send its next request to another replica."""
        if not is_limited(key):
            return
        self._own.give_back(key.name, num, begun=begun)
        with contextlib.suppress(Exception):  # the next reports say it again
            async with asyncio.timeout(TIMEOUT_S):
                await self._store.give_back(key.name, num, self._holder, begun)

    def start(self, running: Callable[[], Mapping[str, int]]) -> None:
        """Report from now on what runs here, by name of the key."""
        self._reporting = asyncio.get_running_loop().create_task(self._report(running))

    async def stop(self) -> None:
        """Idempotent."""
        task, self._reporting = self._reporting, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _report(self, running: Callable[[], Mapping[str, int]]) -> None:
        while True:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(TIMEOUT_S):
                    await self._store.hear(self._holder, running())
            await asyncio.sleep(PERIOD_S)


def is_limited(key: ApiKey) -> bool:
    return key.requests_per_minute is not None or key.max_concurrent is not None
