"""The public gRPC server on its own port: Generation, standard health, reflection.

Health: ``""`` reports that the process is alive, ``adasd.v1.Generation`` that requests are served.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from adasd.errors import InvalidRequest
from services.config import DoorTlsConfig
from services.gateway.auth.key_ring import KeyRing
from services.gateway.backend import Backend
from services.gateway.grpc.generation_service import GatewayService
from services.gateway.grpc.key_check import GuardedHandler
from services.gateway.peers import Peers
from services.observability.service_events import Observer, ignore
from services.transport.generation import generation_handler, parsed
from services.transport.generation_messages import GENERATION_SERVICE
from services.transport.options import PUBLIC_KEEPALIVE, SERVER_OPTIONS
from services.transport.server import RunningServer, start_server
from services.transport.status import abort

HEALTH_SERVICE = "grpc.health.v1.Health"
REFLECTION_SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
HEALTH_PERIOD_S = 0.5
"""Interval between checks of the backend's readiness."""
HANDSHAKE_S = 20.0
"""A connection that has not begun to speak HTTP/2 (and TLS) by then is closed."""
NUM_LISTENERS = 32
"""Each takes new calls one after the other: with one, and ten times what the service can serve, calls waited 16 s."""
IDLE_S = 600.0
"""A connection without calls is closed after this; gRPC's clients open a new one at their next call."""
LAST_WORD_S = 0.1
"""Time for health watchers to receive NOT_SERVING before their streams end."""


class GrpcDoor:
    """A started server; stop it before its event loop ends."""

    def __init__(
        self,
        running: RunningServer,
        servicer: health.aio.HealthServicer,
        backend: Backend,
        service: GatewayService,
        closing: asyncio.Event,
    ) -> None:
        self._running, self._servicer, self._backend, self._service = running, servicer, backend, service
        self._closing = closing
        self._watch = asyncio.create_task(self._follow_readiness())

    @property
    def address(self) -> str:
        """``host:port`` for clients."""
        return self._running.address

    def abort_here(self, request_ids: Sequence[str]) -> tuple[str, ...]:
        """Stop the answers among these that this server runs; returns them."""
        return self._service.abort_here(request_ids)

    async def stop(self, grace_s: float = 0.0) -> None:
        """Report NOT_SERVING first, then refuse new calls, give running ones ``grace_s`` seconds, then cancel them.

        Returns as soon as no call is running. Streams that watch the health are not waited for: they end here.
        """
        self._watch.cancel()
        await asyncio.gather(self._watch, return_exceptions=True)
        await self._servicer.set(GENERATION_SERVICE, health_pb2.HealthCheckResponse.NOT_SERVING)
        self._closing.set()
        await self._running.stop(grace_s)

    async def _follow_readiness(self) -> None:
        while True:
            await set_readiness(self._servicer, self._backend)
            await asyncio.sleep(HEALTH_PERIOD_S)


async def start_grpc(
    backend: Backend,
    host: str,
    port: int,
    max_request_bytes: int,
    keys: KeyRing | None = None,
    tell: Observer = ignore,
    peers: Peers | None = None,
    tls: DoorTlsConfig | None = None,
) -> GrpcDoor:
    """Listen on ``host``; port 0 takes a free one. ConfigError if the address is not available.

    ``peers`` are the other replicas, for Abort and GetLoads; without them, this replica answers for itself alone.
    ``keys`` are required on every service but health; ``tell`` receives refusals as events.
    Gateways on one machine may share the port: the kernel distributes connections over them.
    """
    servicer = health.aio.HealthServicer()
    await set_readiness(servicer, backend)
    options = {
        **dict(SERVER_OPTIONS),
        **dict(PUBLIC_KEEPALIVE),
        "grpc.so_reuseport": 1,
        "grpc.max_receive_message_length": max_request_bytes,
        "grpc.server_handshake_timeout_ms": int(1e3 * HANDSHAKE_S),
        "grpc.max_connection_idle_ms": int(1e3 * IDLE_S),
    }
    service, closing = GatewayService(backend, tell, peers), asyncio.Event()
    guarded = [
        generation_handler(service),
        *_reflection_handlers([GENERATION_SERVICE, HEALTH_SERVICE, *REFLECTION_SERVICES]),
    ]
    ring = keys or KeyRing()
    handlers = [
        _health_handler(servicer, closing),
        *(GuardedHandler(handler, ring, tell) for handler in guarded),
    ]
    running = await start_server(handlers, host, port, tuple(options.items()), tls, NUM_LISTENERS)
    return GrpcDoor(running, servicer, backend, service, closing)


async def set_readiness(servicer: health.aio.HealthServicer, backend: Backend) -> None:
    """Set the service's health status to the backend's current readiness."""
    status = health_pb2.HealthCheckResponse
    serving = status.SERVING if backend.readiness().ready else status.NOT_SERVING
    await servicer.set(GENERATION_SERVICE, serving)


def _health_handler(servicer: health.aio.HealthServicer, closing: asyncio.Event) -> grpc.GenericRpcHandler:
    async def watch(request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext) -> None:
        watching = asyncio.ensure_future(servicer.Watch(request, context))
        closes = asyncio.ensure_future(closing.wait())
        try:
            await asyncio.wait((watching, closes), return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait((watching,), timeout=LAST_WORD_S)
            if watching.done():
                await watching
        finally:
            for task in (watching, closes):
                task.cancel()
            await asyncio.gather(watching, closes, return_exceptions=True)

    answer = health_pb2.HealthCheckResponse.SerializeToString
    methods = {
        "Check": grpc.unary_unary_rpc_method_handler(
            _with_message(health_pb2.HealthCheckRequest, servicer.Check), response_serializer=answer
        ),
        "Watch": grpc.unary_stream_rpc_method_handler(
            _with_message(health_pb2.HealthCheckRequest, watch), response_serializer=answer
        ),
    }
    return grpc.method_handlers_generic_handler(HEALTH_SERVICE, methods)


def _reflection_handlers(services: list[str]) -> list[grpc.GenericRpcHandler]:
    """One handler for both versions: ``v1`` has the messages of ``v1alpha`` under another name."""
    servicer = reflection.aio.ReflectionServicer(services)

    async def info(asked: AsyncIterable[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        async def messages() -> AsyncIterator[Any]:
            async for data in asked:
                yield await _message(reflection_pb2.ServerReflectionRequest, data, context)

        async for reply in servicer.ServerReflectionInfo(messages(), context):
            yield reply

    method = grpc.stream_stream_rpc_method_handler(
        info, response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString
    )
    return [
        grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": method})
        for name in REFLECTION_SERVICES
    ]


def _with_message(
    kind: type[Message], behaviour: Callable[[Any, grpc.aio.ServicerContext], Awaitable[Any]]
) -> Callable[[bytes, grpc.aio.ServicerContext], Awaitable[Any]]:
    """``behaviour`` for requests as bytes: gRPC itself would answer INTERNAL to those that are no ``kind``."""

    async def of_bytes(data: bytes, context: grpc.aio.ServicerContext) -> Any:
        return await behaviour(await _message(kind, data, context), context)

    return of_bytes


async def _message(kind: type[Message], data: bytes, context: grpc.aio.ServicerContext) -> Any:
    """The message; ends the call with INVALID_ARGUMENT if the bytes are none."""
    try:
        return parsed(kind, data)
    except InvalidRequest as error:
        await abort(context, error)
