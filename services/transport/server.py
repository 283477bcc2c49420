"""A grpc.aio server with our options, and the adapter between links and their service.

The service sees frozen frames and raises errors of adasd.errors; this file converts both to gRPC.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import grpc

from adasd.errors import AdasdError, ConfigError, WorkerLost
from services.config import DoorTlsConfig, TlsConfig
from services.transport.ask_codec import decode_asks
from services.transport.frames import AskFrame
from services.transport.options import FORMER_METHOD, LINK_METHOD, SERVER_OPTIONS
from services.transport.status import abort
from services.transport.tls import door_credentials, server_credentials

log = logging.getLogger(__name__)
T = TypeVar("T")


class LinkStream(Protocol):
    """The worker's end of one link."""

    async def read(self, leases: Mapping[int, str]) -> AskFrame | None:
        """The next frame; None after the orchestrator's last. InvalidRequest if it cannot be decoded.

        ``leases`` are the ids of the link's sessions by number.
        """
        ...

    async def write(self, frame: bytes) -> None:
        """Send a frame of a ReplyBuffer."""
        ...


class LinkService(Protocol):
    """Implements the Link stream."""

    async def link(self, stream: LinkStream) -> None:
        """Serve one link until its end. An AdasdError ends it with that error's status."""
        ...


class GrpcLinkStream:
    """A LinkStream over the context of a gRPC call that passes raw bytes."""

    def __init__(self, context: grpc.aio.ServicerContext) -> None:
        self._context = context

    async def read(self, leases: Mapping[int, str]) -> AskFrame | None:
        data = await self._context.read()
        return None if data is grpc.aio.EOF else decode_asks(data, leases)

    async def write(self, frame: bytes) -> None:
        await self._context.write(frame)


def worker_handler(service: LinkService, role: str) -> grpc.GenericRpcHandler:
    """The Worker service of protos/adasd/v1/worker.proto, implemented by ``service``."""

    async def link(_: object, context: grpc.aio.ServicerContext) -> None:
        await guarded(context, service.link(GrpcLinkStream(context)))

    async def refuse(_: object, context: grpc.aio.ServicerContext) -> None:
        why = "it speaks frames, the caller's version does not; replicas of both kinds are being upgraded"
        await abort(context, WorkerLost(role, why))

    name, method = LINK_METHOD.strip("/").split("/")
    methods = {method: link, FORMER_METHOD.rpartition("/")[2]: refuse}
    handlers = {name: grpc.stream_stream_rpc_method_handler(method) for name, method in methods.items()}
    return grpc.method_handlers_generic_handler(name, handlers)


async def guarded(context: grpc.aio.ServicerContext, work: Coroutine[Any, Any, T]) -> T:
    """Await ``work``; its error becomes the call's status, an unexpected one INTERNAL without details."""
    try:
        return await work
    except AdasdError as error:
        await abort(context, error)
    except Exception as error:
        log.exception("unforeseen error in a gRPC call")
        await abort(
            context, AdasdError(f"internal error ({type(error).__name__}); the server's log says more")
        )


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A started server. Stop it before its event loop ends."""

    listeners: tuple[grpc.aio.Server, ...]
    host: str
    port: int

    @property
    def address(self) -> str:
        """``host:port`` for clients."""
        return f"{_bracketed(self.host)}:{self.port}"

    async def stop(self, grace_s: float = 0.0) -> None:
        """Refuse new calls, give running ones ``grace_s`` seconds, then cancel them."""
        await asyncio.gather(*(listener.stop(grace_s) for listener in self.listeners))


async def start_server(
    handlers: Sequence[grpc.GenericRpcHandler],
    host: str,
    port: int = 0,
    options: Sequence[tuple[str, int]] = SERVER_OPTIONS,
    tls: TlsConfig | DoorTlsConfig | None = None,
    num_listeners: int = 1,
) -> RunningServer:
    """Listen on ``host``; port 0 takes a free one. With a TlsConfig, only peers with a certificate may call.

    ConfigError if the address is not available, or a file of ``tls`` cannot be read.

    One listener takes a new call in every fourth or fifth turn of the event loop, which is too few for a busy loop.
    The kernel spreads connections over ``num_listeners`` at one port; more than one needs the option grpc.so_reuseport.
    """
    listeners: list[grpc.aio.Server] = []
    credentials = None
    if tls is not None and tls.is_on:
        credentials = server_credentials(tls) if isinstance(tls, TlsConfig) else door_credentials(tls)
    for _ in range(num_listeners):
        server = grpc.aio.server(options=list(options))
        server.add_generic_rpc_handlers(tuple(handlers))
        address = f"{_bracketed(host)}:{port}"
        try:
            if credentials is not None:
                port = server.add_secure_port(address, credentials)
            else:
                port = server.add_insecure_port(address)
        except RuntimeError as error:
            raise ConfigError(f"cannot listen on {host}:{port} ({error}); choose a free port") from error
        listeners.append(server)
    await asyncio.gather(*(listener.start() for listener in listeners))
    return RunningServer(tuple(listeners), host, port)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
