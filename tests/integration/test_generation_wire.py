"""The public gRPC interface on a real server: streams, statuses, and a client that leaves."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import grpc
import pytest

from adasd.errors import ContextTooLong, InvalidRequest, Overloaded, UnknownModel, WorkerLost, told
from adasd.requests import Mode, SpeculationOptions
from adasd.results import Chunk, Complete, EmittedToken, FinishReason, SpeculationReport, TokenKind, Usage
from protos.adasd.v1 import generation_pb2 as pb
from protos.adasd.v1.generation_pb2_grpc import GenerationStub
from services.transport.generation import GenerationClient, generation_handler
from services.transport.generation_messages import (
    GENERATION_SERVICE,
    GenerateCall,
    Loads,
    ModelInfo,
    ReplicaLoad,
    ServerInfo,
)
from services.transport.server import start_server
from tests.leaks import nothing_runs
from tests.patience import soon

REPORT = SpeculationReport(
    SpeculationOptions(Mode.EXACT, "adasd", None, 16, 0.0),
    2,
    2,
    9,
    7,
    (4, 3),
    (5, 4),
    ((TokenKind.EXACT, 7),),
    1.5,
    None,
    1.0,
    2.0,
    0.5,
)
INFO = ModelInfo(
    "demo", "target", "draft", 512, 1024, SpeculationOptions(Mode.EXACT), ("adasd",), ("posterior",)
)
SERVER = ServerInfo("0.1", True, False, (), 12.5)
LOADS = Loads((ReplicaLoad("draft", "d1", 8, 3, 1, 99),), 3, 0)


class Echo:
    """Echoes token ids, one per chunk, until told to wait."""

    def __init__(self) -> None:
        self.closed, self.refuse_with, self.wait_after = asyncio.Event(), None, 10**9
        self.asked: list[tuple[str, GenerateCall]] = []
        self.tail = ""  # of every chunk's text

    def refusal(self):
        return None

    async def generate(self, request_id, call):
        self.asked.append((request_id, call))
        if self.refuse_with is not None:
            raise self.refuse_with
        try:
            for i, token in enumerate(call.input):
                if i == self.wait_after:
                    await asyncio.sleep(3600)
                yield Chunk(f"<{token}>{self.tail}", (EmittedToken(token, TokenKind.EXACT),))
            yield Complete(FinishReason.STOP, Usage(3, 4), REPORT, "END")
        finally:
            self.closed.set()

    async def abort(self, request_ids):
        return tuple(name for name in request_ids if name == "running")

    async def model_info(self, model):
        if model not in ("", "demo"):
            raise UnknownModel(model, "demo")
        return INFO

    async def server_info(self):
        return SERVER

    async def loads(self):
        if self.refuse_with == "bug":
            raise ZeroDivisionError("secret detail")
        return LOADS


@pytest.fixture
async def echo():
    service = Echo()
    server = await start_server([generation_handler(service)], "127.0.0.1")
    client = GenerationClient(server.address)
    service.client, service.address = client, server.address
    yield service
    await client.close()
    await server.stop()
    assert await nothing_runs(), asyncio.all_tasks()


async def test_an_answer_streams_and_completes(echo):
    call = GenerateCall((5, 6), request_id="r1", speculation=SpeculationOptions(Mode.ADAPTIVE))
    events = [event async for event in echo.client.generate(call)]
    assert [event.text for event in events[:-1]] == ["<5>", "<6>"]
    assert events[-1] == Complete(FinishReason.STOP, Usage(3, 4), REPORT, "END")
    assert echo.asked == [("r1", call)]


async def test_a_message_beyond_grpcs_own_limit_arrives(echo):
    """As with the log-probabilities of a long prompt."""
    echo.tail = 5_000_000 * "x"
    events = [event async for event in echo.client.generate(GenerateCall((5,)))]
    assert events[0].text == "<5>" + echo.tail


async def test_a_request_id_too_long_for_headers_is_refused_by_name(echo):
    with pytest.raises(InvalidRequest, match="has 20000 characters, the limit is 256"):
        async for _ in echo.client.generate(GenerateCall((5,), request_id=20_000 * "a")):
            pass


async def test_the_server_names_a_request_without_a_name(echo):
    async with grpc.aio.insecure_channel(echo.address) as channel:
        stream = GenerationStub(channel).Generate(pb.GenerateRequest(token_ids=pb.TokenIds(ids=[1])))
        names = {event.request_id async for event in stream}
    assert names == {echo.asked[0][0]}
    assert len(names.pop()) == 32


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ContextTooLong(900, 10, 512), grpc.StatusCode.INVALID_ARGUMENT),
        (UnknownModel("x", "demo"), grpc.StatusCode.NOT_FOUND),
        (Overloaded("no slot is free", 3.0), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (WorkerLost("target", "gone"), grpc.StatusCode.UNAVAILABLE),
    ],
)
async def test_an_error_is_a_status_for_strangers_and_itself_for_our_client(echo, error, status):
    echo.refuse_with = error
    with pytest.raises(type(error)) as caught:
        [event async for event in echo.client.generate(GenerateCall((1,)))]
    assert vars(caught.value) == vars(error)
    async with grpc.aio.insecure_channel(echo.address) as channel:
        stream = GenerationStub(channel).Generate(pb.GenerateRequest(text="x"))
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            [event async for event in stream]
    assert refusal.value.code() is status
    assert refusal.value.details() == told(error)


async def test_a_client_that_leaves_ends_the_generator(echo):
    echo.wait_after = 1
    async with aclosing(echo.client.generate(GenerateCall((1, 2)))) as events:
        await anext(events)
    await soon(echo.closed.is_set)


@pytest.mark.parametrize("garbage", [b"\xff\xff", b""])
async def test_garbage_is_an_invalid_argument(echo, garbage):
    async with grpc.aio.insecure_channel(echo.address) as channel:
        stream = channel.unary_stream(f"/{GENERATION_SERVICE}/Generate")(garbage)
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            [event async for event in stream]
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_the_other_methods(echo):
    assert await echo.client.abort(["running", "done"]) == ("running",)
    assert await echo.client.model_info() == INFO
    assert await echo.client.server_info() == SERVER
    assert await echo.client.loads() == LOADS
    with pytest.raises(UnknownModel, match="'gpt-9' is not served here; served: demo"):
        await echo.client.model_info("gpt-9")


async def test_a_bug_is_internal_and_keeps_its_details_to_the_log(echo, caplog):
    echo.refuse_with = "bug"
    async with grpc.aio.insecure_channel(echo.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await GenerationStub(channel).GetLoads(pb.GetLoadsRequest())
    assert refusal.value.code() is grpc.StatusCode.INTERNAL
    assert "secret detail" not in refusal.value.details()
    assert "secret detail" in caplog.text
