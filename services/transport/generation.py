"""Server and client of the public interface: a handler around a GenerationService, and GenerationClient."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing
from typing import Any, TypeVar
from uuid import uuid4

import grpc
from google.protobuf.message import DecodeError, Message

from adasd.errors import InvalidRequest
from adasd.results import Chunk, Complete
from protos.adasd.v1 import generation_pb2 as pb
from services.request_ids import sane_id
from services.trace_context import INCOMING, from_headers
from services.transport import generation_codec as codec
from services.transport.generation_messages import (
    GENERATION_SERVICE,
    ChatMessage,
    GenerateCall,
    GenerationService,
    Loads,
    ModelInfo,
    ServerInfo,
)
from services.transport.options import MAX_MESSAGE_BYTES, PUBLIC_KEEPALIVE, retrying
from services.transport.server import guarded
from services.transport.status import abort, error_from_rpc

REQUEST_ID_KEY = "x-request-id"
"""Metadata key of the request id, in both directions; the same name as the HTTP header."""
MAX_REQUEST_ID_CHARS = 256

M = TypeVar("M", bound=Message)
R = TypeVar("R", bound=Message)


def generation_handler(service: GenerationService) -> grpc.GenericRpcHandler:
    """The Generation service of protos/adasd/v1/generation.proto, implemented by ``service``."""

    async def generate(data: bytes, context: grpc.aio.ServicerContext) -> None:
        if (refusal := service.refusal()) is not None:
            await abort(context, refusal)

        async def answer() -> None:
            call = codec.call_from_wire(parsed(pb.GenerateRequest, data))
            is_chat = (
                bool(call.input) and isinstance(call.input, tuple) and isinstance(call.input[0], ChatMessage)
            )
            operation = "chat" if is_chat else "text_completion"
            INCOMING.set(from_headers(context.invocation_metadata() or (), operation))
            request_id = call.request_id or _id_in(context.invocation_metadata()) or uuid4().hex
            if not (request_id.isascii() and request_id.isprintable()):  # goes into metadata and logs
                raise InvalidRequest(f"request_id is {request_id[:64]!a}; send printable ASCII", "request_id")
            if len(request_id) > MAX_REQUEST_ID_CHARS:
                raise InvalidRequest(
                    f"request_id has {len(request_id)} characters, the limit is {MAX_REQUEST_ID_CHARS}",
                    "request_id",
                )
            await context.send_initial_metadata(((REQUEST_ID_KEY, request_id),))
            async with aclosing(service.generate(request_id, call)) as events:
                async for event in events:
                    await context.write(codec.event_to_wire(request_id, event).SerializeToString())

        await guarded(context, answer())

    async def abort_calls(request: pb.AbortRequest) -> pb.AbortResponse:
        return pb.AbortResponse(aborted=await service.abort(tuple(request.request_ids)))

    async def model_info(request: pb.GetModelInfoRequest) -> pb.GetModelInfoResponse:
        return codec.model_info_to_wire(await service.model_info(request.model))

    async def server_info(_: pb.GetServerInfoRequest) -> pb.GetServerInfoResponse:
        return codec.server_info_to_wire(await service.server_info())

    async def loads(_: pb.GetLoadsRequest) -> pb.GetLoadsResponse:
        return codec.loads_to_wire(await service.loads())

    methods = {
        "Generate": grpc.unary_stream_rpc_method_handler(generate),
        "Abort": _unary(pb.AbortRequest, abort_calls),
        "GetModelInfo": _unary(pb.GetModelInfoRequest, model_info),
        "GetServerInfo": _unary(pb.GetServerInfoRequest, server_info),
        "GetLoads": _unary(pb.GetLoadsRequest, loads),
    }
    return grpc.method_handlers_generic_handler(GENERATION_SERVICE, methods)


def _id_in(metadata: Iterable[tuple[str, str | bytes]] | None) -> str | None:
    """The caller's request id, if it is valid."""
    for key, value in metadata or ():
        if key == REQUEST_ID_KEY and isinstance(value, str):
            return sane_id(value)
    return None


def _unary(kind: type[M], answer: Callable[[M], Coroutine[Any, Any, Message]]) -> grpc.RpcMethodHandler:
    async def handle(data: bytes, context: grpc.aio.ServicerContext) -> bytes:
        async def work() -> bytes:
            reply: bytes = (await answer(parsed(kind, data))).SerializeToString()
            return reply

        return await guarded(context, work())

    return grpc.unary_unary_rpc_method_handler(handle)


def parsed(kind: type[M], data: bytes) -> M:
    """The message; InvalidRequest if the bytes are none."""
    message: M = kind()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise InvalidRequest(f"{len(data)} bytes are no {kind.__name__}: {error}") from error
    return message


class GenerationClient:
    """A client of the public interface, with a connection of its own; errors arrive as the classes of adasd.errors.

    Close it at the end. A server takes the new calls of one connection one after the other.

    Calls that no server has accepted are retried for about 4 s (services.transport.options.RETRY_POLICY). Running ones
    raise WorkerLost 20 s after the server fell silent.
    """

    def __init__(self, address: str, api_key: str | None = None, ca: bytes | None = None) -> None:
        """``ca``: PEM certificate of the authority that signed the server's certificate; None: no TLS."""
        options = (
            *retrying(GENERATION_SERVICE),
            *PUBLIC_KEEPALIVE,
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.use_local_subchannel_pool", 1),  # else channels of a process share their connections
        )
        if ca is None:
            self._channel = grpc.aio.insecure_channel(address, options)
        else:
            self._channel = grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(ca), options)
        self._metadata = (("authorization", f"Bearer {api_key}"),) if api_key else ()

    async def generate(self, call: GenerateCall | bytes) -> AsyncGenerator[Chunk | Complete, None]:
        """Yields Chunks, then Complete; leaving the iteration early cancels the answer.

        ``call`` as bytes is a message as it travels, which nothing checks on this side.
        """
        data = call if isinstance(call, bytes) else codec.call_to_wire(call).SerializeToString()
        stream = self._channel.unary_stream(f"/{GENERATION_SERVICE}/Generate")(data, metadata=self._metadata)
        try:
            async for data in stream:
                yield codec.event_from_wire(parsed(pb.GenerateResponse, data))
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error, "server") from error
        finally:
            stream.cancel()

    async def abort(self, request_ids: Sequence[str]) -> tuple[str, ...]:
        """Stop these; returns those that were running."""
        answer = await self._ask("Abort", pb.AbortRequest(request_ids=request_ids), pb.AbortResponse)
        return tuple(answer.aborted)

    async def model_info(self, model: str = "") -> ModelInfo:
        """The served model and the methods that requests may name."""
        request = pb.GetModelInfoRequest(model=model)
        return codec.model_info_from_wire(await self._ask("GetModelInfo", request, pb.GetModelInfoResponse))

    async def server_info(self) -> ServerInfo:
        """The state of the server: whether it can serve, and why not."""
        request = pb.GetServerInfoRequest()
        return codec.server_info_from_wire(
            await self._ask("GetServerInfo", request, pb.GetServerInfoResponse)
        )

    async def loads(self) -> Loads:
        """The load of the worker replicas."""
        return codec.loads_from_wire(await self._ask("GetLoads", pb.GetLoadsRequest(), pb.GetLoadsResponse))

    async def close(self) -> None:
        """Close the channel; running answers are cancelled."""
        await self._channel.close()

    async def _ask(self, method: str, request: Message, kind: type[R]) -> R:
        try:
            data = await self._channel.unary_unary(f"/{GENERATION_SERVICE}/{method}")(
                request.SerializeToString(), metadata=self._metadata
            )
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error, "server") from error
        return parsed(kind, data)
