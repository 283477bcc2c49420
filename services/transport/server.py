"""A grpc.aio server with our options, and the adapter between the Rounds stream and its service.

The service sees frozen frames and raises errors of adasd.errors; this file converts both to gRPC.
"""

from __future__ import annotations

import logging
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import grpc

from adasd.errors import AdasdError, ConfigError
from services.config import DoorTlsConfig, TlsConfig
from services.transport.envelope import Frame, ReplyFrame
from services.transport.options import ROUNDS_METHOD, SERVER_OPTIONS
from services.transport.rounds_codec import decode_frame, encode_reply
from services.transport.status import abort
from services.transport.tls import door_credentials, server_credentials

log = logging.getLogger(__name__)
T = TypeVar("T")


class RoundsStream(Protocol):
    """The worker's end of one Rounds stream."""

    async def read(self) -> Frame | None:
        """The next frame; None after the client's last. InvalidRequest if it cannot be decoded."""
        ...

    async def write(self, reply: ReplyFrame) -> None: ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Metadata that the client sent with the stream (a trace context)."""
        ...


class RoundsService(Protocol):
    """Implements the Rounds stream."""

    async def rounds(self, stream: RoundsStream) -> None:
        """Serve one stream until its end. An AdasdError ends it with that error's status."""
        ...


class GrpcRoundsStream:
    """A RoundsStream over the context of a gRPC call that passes raw bytes."""

    def __init__(self, context: grpc.aio.ServicerContext) -> None:
        self._context = context

    async def read(self) -> Frame | None:
        data = await self._context.read()
        return None if data is grpc.aio.EOF else decode_frame(data)

    async def write(self, reply: ReplyFrame) -> None:
        await self._context.write(encode_reply(reply))

    @property
    def headers(self) -> Mapping[str, str]:
        metadata = self._context.invocation_metadata() or ()
        return {name: value for name, value in metadata if isinstance(value, str)}


def rounds_handler(service: RoundsService) -> grpc.GenericRpcHandler:
    """The Worker service of protos/adasd/v1/worker.proto, implemented by ``service``."""

    async def rounds(_: object, context: grpc.aio.ServicerContext) -> None:
        await guarded(context, service.rounds(GrpcRoundsStream(context)))

    name, method = ROUNDS_METHOD.strip("/").split("/")
    return grpc.method_handlers_generic_handler(name, {method: grpc.stream_stream_rpc_method_handler(rounds)})


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

    server: grpc.aio.Server
    host: str
    port: int

    @property
    def address(self) -> str:
        """``host:port`` for clients."""
        return f"{_bracketed(self.host)}:{self.port}"

    async def stop(self, grace_s: float = 0.0) -> None:
        """Refuse new calls, give running ones ``grace_s`` seconds, then cancel them."""
        await self.server.stop(grace_s)


async def start_server(
    handlers: Sequence[grpc.GenericRpcHandler],
    host: str,
    port: int = 0,
    options: Sequence[tuple[str, int]] = SERVER_OPTIONS,
    tls: TlsConfig | DoorTlsConfig | None = None,
) -> RunningServer:
    """Listen on ``host``; port 0 takes a free one. With a TlsConfig, only peers with a certificate may call.

    ConfigError if the address is not available, or a file of ``tls`` cannot be read.
    """
    server = grpc.aio.server(options=list(options))
    server.add_generic_rpc_handlers(tuple(handlers))
    try:
        address = f"{_bracketed(host)}:{port}"
        if tls is not None and tls.is_on:
            shown = server_credentials(tls) if isinstance(tls, TlsConfig) else door_credentials(tls)
            bound = server.add_secure_port(address, shown)
        else:
            bound = server.add_insecure_port(address)
    except RuntimeError as error:
        raise ConfigError(f"cannot listen on {host}:{port} ({error}); choose a free port") from error
    await server.start()
    return RunningServer(server, host, bound)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
