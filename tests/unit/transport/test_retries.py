"""A server is replaced under clients of the public interface: only calls that no server took are retried."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc
import pytest

from adasd.errors import AdasdError
from adasd.results import Chunk
from protos.adasd.v1 import generation_pb2 as pb
from services.transport.generation import GenerationClient
from services.transport.generation_messages import GENERATION_SERVICE, GenerateCall
from services.transport.options import SERVER_OPTIONS

CHUNK = pb.GenerateResponse(chunk=pb.Chunk(text="cat")).SerializeToString()
Answer = Callable[[int, grpc.aio.ServicerContext], AsyncIterator[bytes]]


class Server:
    """Counts calls and answers the n-th with ``answer(n, context)``."""

    def __init__(self, answer: Answer) -> None:
        self.num_calls, self._answer = 0, answer

    async def __aenter__(self) -> Server:
        async def generate(_: bytes, context: grpc.aio.ServicerContext) -> None:
            self.num_calls += 1
            async for data in self._answer(self.num_calls, context):
                await context.write(data)

        handler = grpc.unary_stream_rpc_method_handler(generate)
        self._server = grpc.aio.server(options=list(SERVER_OPTIONS))
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(GENERATION_SERVICE, {"Generate": handler}),)
        )
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(None)


async def asked(server: Server) -> list[object]:
    client = GenerationClient(server.address)
    try:
        return [event async for event in client.generate(GenerateCall("the"))]
    finally:
        await client.close()


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
async def test_a_call_that_no_server_took_is_tried_again(code):
    async def answer(number, context):
        if number == 1:
            await context.abort(code, "")
        yield CHUNK

    async with Server(answer) as server:
        (chunk,) = await asked(server)
        assert isinstance(chunk, Chunk)
        assert server.num_calls == 2


async def test_a_call_that_a_server_took_is_not():
    async def answer(_, context):
        await context.send_initial_metadata(())
        await asyncio.sleep(0.5)  # a client that reads both at the same time tries again
        await context.abort(grpc.StatusCode.UNAVAILABLE, "lost")
        yield CHUNK

    async with Server(answer) as server:
        with pytest.raises(AdasdError):
            await asked(server)
        assert server.num_calls == 1


async def test_a_refusal_is_not():
    async def answer(_, context):
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "wrong")
        yield CHUNK

    async with Server(answer) as server:
        with pytest.raises(AdasdError):
            await asked(server)
        assert server.num_calls == 1
