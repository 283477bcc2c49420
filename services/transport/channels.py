"""One gRPC channel per worker address, shared by all sessions on that worker."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import grpc

from services.config import TlsConfig
from services.transport.options import CLIENT_OPTIONS
from services.transport.tls import client_credentials, client_options


@dataclass(slots=True)
class _Shared:
    channel: grpc.aio.Channel
    num_users: int = 0
    closing: asyncio.TimerHandle | None = None


class WorkerChannelPool:
    """Reference-counted channels by address. An unused one is closed after ``linger_s`` seconds.

    Belongs to the event loop that it is first used on; await ``close`` before that loop ends. With ``tls``, both
    ends must show a certificate; ConfigError if its files cannot be read.
    """

    def __init__(self, linger_s: float = 10.0, tls: TlsConfig | None = None) -> None:
        self._linger_s, self._tls = linger_s, tls if tls is not None and tls.is_on else None
        if self._tls is not None:
            client_credentials(self._tls)  # fail now if a file is unreadable
        self._shared: dict[str, _Shared] = {}
        self._closings: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._shared)

    def acquire(self, address: str) -> grpc.aio.Channel:
        """The channel to ``host:port``; every call must be matched by a ``release``."""
        shared = self._shared.get(address)
        if shared is None:
            shared = self._shared[address] = _Shared(self._connect(address))
        if shared.closing is not None:
            shared.closing.cancel()
            shared.closing = None
        shared.num_users += 1
        return shared.channel

    def release(self, address: str) -> None:
        """Undo one ``acquire``; after ``close`` it does nothing."""
        shared = self._shared.get(address)
        if shared is None:
            return
        shared.num_users -= 1
        if shared.num_users == 0:
            loop = asyncio.get_running_loop()
            shared.closing = loop.call_later(self._linger_s, self._close_unused, address)

    def _connect(self, address: str) -> grpc.aio.Channel:
        if self._tls is None:
            return grpc.aio.insecure_channel(address, list(CLIENT_OPTIONS))
        options = [*CLIENT_OPTIONS, *client_options(self._tls)]
        return grpc.aio.secure_channel(address, client_credentials(self._tls), options)

    async def close(self) -> None:
        """Close every channel; their streams end."""
        addresses = list(self._shared)
        for address in addresses:
            self._close_unused(address)
        await asyncio.gather(*self._closings)

    def _close_unused(self, address: str) -> None:
        shared = self._shared.pop(address)
        if shared.closing is not None:
            shared.closing.cancel()
        task = asyncio.get_running_loop().create_task(shared.channel.close())
        self._closings.add(task)
        task.add_done_callback(self._closings.discard)
