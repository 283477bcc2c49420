"""Connections over real sockets: slow and silent ones are closed, half-closed ones get their answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from services.gateway.http import patience

HEAD = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n"
OK = b"HTTP/1.1 200 OK"


class Slow:
    """Answers ``[]`` once ``go`` is set, in pieces; remembers that a client left."""

    def __init__(self) -> None:
        self.go, self.asked, self.left = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        self.asked.set()
        leaving = asyncio.create_task(receive())
        leaving.add_done_callback(lambda task: task.cancelled() or self.left.set())
        going = asyncio.create_task(self.go.wait())
        await asyncio.wait((leaving, going), return_when=asyncio.FIRST_COMPLETED)
        if self.go.is_set():
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"[", "more_body": True})
            await send({"type": "http.response.body", "body": b"]"})
        for task in (leaving, going):
            task.cancel()


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Slow, int]]:
    monkeypatch.setattr(patience, "HEAD_S", 0.2)
    monkeypatch.setattr(patience, "LISTENS_S", (0.0, 0.02))
    monkeypatch.setitem(uvicorn.config.HTTP_PROTOCOLS, "auto", uvicorn.config.HTTP_PROTOCOLS["auto"])
    patience.install()
    app = Slow()
    config = uvicorn.Config(app, port=0, lifespan="off", log_config=None, timeout_keep_alive=60)
    running = uvicorn.Server(config)
    running.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    serving = asyncio.create_task(running.serve())
    while not running.started:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    yield app, running.servers[0].sockets[0].getsockname()[1]
    app.go.set()
    running.should_exit = True
    await serving


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(20.0):
            yield reader, writer
    finally:
        writer.close()


@pytest.mark.parametrize("sent", [b"", b"POST / HT", HEAD[:-2], b"\r\n"])
async def test_a_head_that_does_not_end_is_answered_with_408(server, sent: bytes):
    async with connected(server[1]) as (reader, writer):
        writer.write(sent)
        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")


async def test_dripping_bytes_buy_no_time_also_not_after_an_answer(server):
    app, port = server
    app.go.set()
    async with connected(port) as (reader, writer):
        writer.write(HEAD + b"[]")
        assert (await reader.readuntil(b"0\r\n\r\n")).startswith(OK)
        reply = asyncio.create_task(reader.read())
        writer.write(HEAD[:-2] + b"x: ")
        while not reply.done():
            writer.write(b"x")
            await asyncio.sleep(0.01)
        assert (await reply).startswith(b"HTTP/1.1 408 ")


async def test_a_request_may_take_longer_than_its_head(server):
    app, port = server
    async with connected(port) as (reader, writer):
        writer.write(HEAD)
        await asyncio.sleep(0.3)
        writer.write(b"[]")
        await app.asked.wait()
        await asyncio.sleep(0.3)
        app.go.set()
        assert (await reader.readuntil(b"0\r\n\r\n")).startswith(OK)


async def test_a_half_closed_connection_gets_its_answer_and_ends(server):
    app, port = server
    async with connected(port) as (reader, writer):
        writer.write(HEAD + b"[]")
        writer.write_eof()
        await app.asked.wait()
        await asyncio.sleep(0.1)
        app.go.set()
        answer = await reader.read()
    interim, _, final = answer.rpartition(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert set(filter(None, interim.split(b"HTTP/1.1 100 Continue\r\n\r\n"))) == set()
    assert final.startswith(OK)
    assert final.endswith(b"0\r\n\r\n")


async def test_a_client_that_closes_is_noticed_before_any_answer(server):
    app, port = server
    async with connected(port) as (_, writer):
        writer.write(HEAD + b"[]")
        await app.asked.wait()
    async with asyncio.timeout(10.0):
        await app.left.wait()


async def test_half_a_body_and_no_more_is_a_client_that_left(server):
    app, port = server
    async with connected(port) as (reader, writer):
        writer.write(HEAD + b"[")
        writer.write_eof()
        assert await reader.read() == b""
    assert not app.go.is_set()
