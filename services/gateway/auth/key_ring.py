"""Identifies callers by hashed API keys, and counts their answers against the limits of each key. Knows no protocol."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from adasd.errors import Unauthenticated
from services.config import ApiKey
from services.gateway.auth.key_uses import OwnUses, Uses

SCHEME = "bearer"


@dataclass(slots=True)
class Use:
    """Counted answers; ``begun`` is set to False if they never begin."""

    begun: bool = True


class KeyRing:
    """The keys of a deployment; without keys, anyone may call."""

    def __init__(self, keys: Sequence[ApiKey] = (), uses: Uses | None = None) -> None:
        """``uses`` enforces the limits; None: those of this process alone."""
        self._keys, self._uses = tuple(keys), uses or OwnUses()
        self._hashes = [bytes.fromhex(key.sha256) for key in self._keys]
        self._running: Counter[str] = Counter()  # answers in this process by name of their key

    def identify(self, authorization: str | None) -> ApiKey | None:
        """The key in ``Bearer KEY``; None if the deployment has no keys. Otherwise raises Unauthenticated.

        Takes the same time for every key: its hash is compared with every known one, each in constant time.
        """
        if not self._keys:
            return None
        scheme, _, key = (authorization or "").strip().partition(" ")
        if scheme.lower() != SCHEME or not key.strip():
            raise Unauthenticated("an API key is needed; send it as the header 'Authorization: Bearer KEY'")
        digest = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).digest()
        matches = [hmac.compare_digest(digest, known) for known in self._hashes]
        if True not in matches:
            raise Unauthenticated("this API key is not known here")
        return self._keys[matches.index(True)]

    @asynccontextmanager
    async def use(self, key: ApiKey | None, num: int = 1) -> AsyncIterator[Use]:
        """Counts ``num`` answers against the key while the block runs; RateLimited if those are too many."""
        used = Use()
        if key is None or num == 0:
            yield used
            return
        await self._uses.take(key, num)
        self._running[key.name] += num
        try:
            yield used
        finally:
            self._running[key.name] -= num
            await asyncio.shield(self._uses.give_back(key, num, used.begun))

    def num_running(self, name: str) -> int:
        """Running answers in this process of the key with that name."""
        return self._running[name]

    def all_running(self) -> dict[str, int]:
        """Running answers in this process by name of their key."""
        return dict(self._running)


def shares(keys: Sequence[ApiKey], num_replicas: int) -> tuple[ApiKey, ...]:
    """The keys with limits split over equal replicas: they sum to at most the key's limit, but each is at least 1."""

    def share(limit: int | None) -> int | None:
        return None if limit is None else max(1, limit // num_replicas)

    return tuple(
        replace(
            key,
            requests_per_minute=share(key.requests_per_minute),
            max_concurrent=share(key.max_concurrent),
        )
        for key in keys
    )
