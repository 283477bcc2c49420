"""Identifies callers by hashed API keys and enforces the limits of each key. Knows no protocol."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from adasd.errors import RateLimited, Unauthenticated
from adasd.ports import Clock
from services.config import ApiKey

WINDOW_S = 60.0
SCHEME = "bearer"


@dataclass(slots=True)
class _Use:
    """What one key has used in this process."""

    num_running: int = 0  # answers
    begun_s: deque[float] = field(default_factory=deque)  # starts in the last WINDOW_S seconds, oldest first


class KeyRing:
    """The keys of a deployment; without keys, anyone may call. Limits hold per process."""

    def __init__(self, keys: Sequence[ApiKey] = (), clock: Clock = time.monotonic) -> None:
        self._keys, self._clock = tuple(keys), clock
        self._hashes = [bytes.fromhex(key.sha256) for key in self._keys]
        self._uses = {key.name: _Use() for key in self._keys}

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

    @contextmanager
    def use(self, key: ApiKey | None, num: int = 1) -> Iterator[None]:
        """Counts ``num`` answers against the key while the block runs; RateLimited if those are too many."""
        if key is None or num == 0:
            yield
            return
        use = self._uses[key.name]
        self._admit(key, use, num)
        use.num_running += num
        try:
            yield
        finally:
            use.num_running -= num

    def num_running(self, name: str) -> int:
        """Running answers of the key with that name."""
        return self._uses[name].num_running

    def _admit(self, key: ApiKey, use: _Use, num: int) -> None:
        now_s, begun_s = self._clock(), use.begun_s
        while begun_s and begun_s[0] <= now_s - WINDOW_S:
            begun_s.popleft()
        per_minute, at_once = key.requests_per_minute, key.max_concurrent
        if per_minute is not None and len(begun_s) + num > per_minute:
            wait_s = round(begun_s[0] + WINDOW_S - now_s, 3) if begun_s else WINDOW_S
            raise RateLimited(
                f"the API key {key.name!r} may have {per_minute} answers per minute here", wait_s
            )
        if at_once is not None and use.num_running + num > at_once:
            raise RateLimited(f"the API key {key.name!r} may have {at_once} answers at once here", 1.0)
        if per_minute is not None:
            begun_s.extend([now_s] * num)


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
