"""Connections of the public gRPC server over real sockets: silent peers, pings that come too often, idle ones."""

import asyncio
from contextlib import asynccontextmanager, suppress

import grpc
import pytest

from adasd.errors import WorkerLost
from services.gateway.grpc import door
from services.transport import generation
from services.transport import generation_codec as codec
from services.transport.generation import GenerationClient
from services.transport.generation_messages import GENERATION_SERVICE, GenerateCall
from services.transport.options import KEEPALIVE, MIN_PING_INTERVAL_MS, PUBLIC_KEEPALIVE, keepalive
from tests.patience import soon
from tests.unit.gateway.fake_backend import FakeBackend

BRISK = keepalive(200, 200)
"""Milliseconds that a test can wait for."""
SLOW = "the cat sat on the mat and the dog ate the hat " * 4


@asynccontextmanager
async def serving(backend):
    server = await door.start_grpc(backend, "127.0.0.1", 0, max_request_bytes=100_000)
    try:
        yield server
    finally:
        await server.stop()


class Wire:
    """Carries bytes between a client and ``address`` until it falls silent: nothing arrives, and nobody is told."""

    def __init__(self, address):
        self.host, self.port = address.rsplit(":", 1)
        self.carries = asyncio.Event()
        self.carries.set()
        self.tasks = set()

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.connected, "127.0.0.1", 0)
        self.address = "{}:{}".format(*self.server.sockets[0].getsockname())
        return self

    async def __aexit__(self, *_):
        self.server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def connected(self, reader, writer):
        there = await asyncio.open_connection(self.host, self.port)
        for source, sink in ((reader, there[1]), (there[0], writer)):
            self.tasks.add(asyncio.create_task(self.carry(source, sink)))

    async def carry(self, source, sink):
        try:
            with suppress(ConnectionError):
                while data := await source.read(65536):
                    await self.carries.wait()
                    sink.write(data)
        finally:
            sink.transport.abort()


@pytest.fixture
def backend():
    """Answers slowly."""
    return FakeBackend(step_s=0.02)


async def test_a_client_notices_that_the_server_is_silent(backend, monkeypatch):
    monkeypatch.setattr(generation, "PUBLIC_KEEPALIVE", BRISK)
    async with serving(backend) as server, Wire(server.address) as wire:
        client = GenerationClient(wire.address)
        events = client.generate(GenerateCall(SLOW))
        await anext(events)
        wire.carries.clear()
        with pytest.raises(WorkerLost, match="UNAVAILABLE"):
            [event async for event in events]
        await client.close()


async def test_the_server_notices_that_a_client_is_silent_and_ends_its_answer(backend, monkeypatch):
    monkeypatch.setattr(door, "PUBLIC_KEEPALIVE", BRISK)
    async with serving(backend) as server, Wire(server.address) as wire:
        client = GenerationClient(wire.address)
        events = client.generate(GenerateCall(SLOW))
        await anext(events)
        backend.step_s = 3600.0  # it would not end by itself
        wire.carries.clear()
        await soon(lambda: backend.tally.running == 0)
        await events.aclose()
        await client.close()


async def test_a_client_that_pings_too_often_is_cut_off(backend):
    async with (
        serving(backend) as server,
        grpc.aio.insecure_channel(server.address, keepalive(100, 1000)) as channel,
    ):
        call = channel.unary_stream(f"/{GENERATION_SERVICE}/Generate")(
            codec.call_to_wire(GenerateCall("hang")).SerializeToString()
        )
        with pytest.raises(grpc.aio.AioRpcError, match="Too many pings") as cut:
            [data async for data in call]
        assert cut.value.code() is grpc.StatusCode.UNAVAILABLE
        await soon(lambda: backend.tally.running == 0)


@pytest.mark.parametrize("ours", [KEEPALIVE, PUBLIC_KEEPALIVE])
def test_our_own_clients_do_not_ping_too_often(ours):
    assert dict(ours)["grpc.keepalive_time_ms"] > MIN_PING_INTERVAL_MS


async def test_a_connection_without_calls_is_closed_and_the_next_call_opens_another(backend, monkeypatch):
    monkeypatch.setattr(door, "IDLE_S", 0.3)
    async with serving(backend) as server, grpc.aio.insecure_channel(server.address) as channel:
        ask = channel.unary_unary(f"/{GENERATION_SERVICE}/GetServerInfo")
        await ask(b"")
        await soon(lambda: channel.get_state() is grpc.ChannelConnectivity.IDLE)
        await ask(b"")
