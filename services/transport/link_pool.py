"""One link per worker, shared by all sessions there."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from services.config import TlsConfig
from services.transport.channels import connect
from services.transport.link import Link, WorkerAddress
from services.transport.tls import client_credentials

LINGER_S = 60.0
"""How long an unused link stays open: the next answer needs no new connection."""


@dataclass(slots=True)
class _Shared:
    link: Link
    num_users: int = 0
    closing: asyncio.TimerHandle | None = None


class LinkPool:
    """Reference-counted links by worker. An unused one is closed after ``linger_s`` seconds, a broken one at once.

    Belongs to the event loop that it is first used on; await ``close`` before that loop ends. With ``tls``, both
    ends must show a certificate; ConfigError if its files cannot be read.
    """

    def __init__(self, linger_s: float = LINGER_S, tls: TlsConfig | None = None) -> None:
        self._linger_s, self._tls = linger_s, tls
        if tls is not None and tls.is_on:
            client_credentials(tls)  # fail now if a file is unreadable
        self._shared: dict[WorkerAddress, _Shared] = {}
        self._closings: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._shared)

    def acquire(self, worker: WorkerAddress) -> Link:
        """The link to this worker; every call must be matched by a ``release``."""
        shared = self._shared.get(worker)
        if shared is None:
            link = Link(connect(worker.address, self._tls), worker, lambda: self._drop(worker, link))
            shared = self._shared[worker] = _Shared(link)
        if shared.closing is not None:
            shared.closing.cancel()
            shared.closing = None
        shared.num_users += 1
        return shared.link

    def release(self, link: Link) -> None:
        """Undo one ``acquire``; nothing to undo if the link broke or the pool was closed."""
        shared = self._shared.get(link.worker)
        if shared is None or shared.link is not link:
            return
        shared.num_users -= 1
        if shared.num_users == 0:
            loop = asyncio.get_running_loop()
            shared.closing = loop.call_later(self._linger_s, self._drop, link.worker, link)

    async def close(self) -> None:
        """Close every link; their sessions end."""
        for worker, shared in tuple(self._shared.items()):
            self._drop(worker, shared.link)
        await asyncio.gather(*self._closings)

    def _drop(self, worker: WorkerAddress, link: Link) -> None:
        """Shut the link down, unless that was done before."""
        shared = self._shared.get(worker)
        if shared is None or shared.link is not link:
            return
        del self._shared[worker]
        if shared.closing is not None:
            shared.closing.cancel()
        task = asyncio.get_running_loop().create_task(link.shut_down())
        self._closings.add(task)
        task.add_done_callback(self._closings.discard)
