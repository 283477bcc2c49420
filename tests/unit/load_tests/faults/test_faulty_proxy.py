"""The proxy delays, holds back and cuts; gRPC connects through it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, suppress

import pytest

from load_tests.faults.faulty_proxy import FaultyProxy

HOST = "127.0.0.1"
DELAY_S = 0.05


@pytest.fixture
def link() -> Iterator[FaultyProxy]:
    with FaultyProxy() as made:
        yield made


@asynccontextmanager
async def connected(link: FaultyProxy) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection through the proxy to an echo server."""

    ended = asyncio.Event()

    async def repeat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while line := await reader.readline():
                writer.write(line)
        writer.transport.abort()
        ended.set()

    async with await asyncio.start_server(repeat, HOST, 0) as server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection(HOST, link.port)
        with closing(writer):
            writer.write(f"CONNECT {HOST}:{port} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 200 OK\r\n\r\n"
            yield reader, writer
        await asyncio.wait_for(ended.wait(), 20.0)


async def the_end_of(reader: asyncio.StreamReader) -> bytes:
    """The bytes that still arrive before the connection ends or breaks."""
    with suppress(ConnectionError):
        return await reader.read()
    return b""


async def test_lines_arrive_in_order_and_later_on_a_slow_link(link: FaultyProxy):
    async with connected(link) as (reader, writer):
        link.delay(HOST, DELAY_S)
        began_s = time.monotonic()
        for number in range(3):
            writer.write(b"%d\n" % number)
        link.delay(HOST, 0.0)
        writer.write(b"3\n")
        assert [await reader.readline() for _ in range(4)] == [b"0\n", b"1\n", b"2\n", b"3\n"]
        assert time.monotonic() - began_s < 10.0
        link.delay(HOST, DELAY_S)
        began_s = time.monotonic()
        writer.write(b"again\n")
        await reader.readline()
        assert time.monotonic() - began_s >= 2 * DELAY_S


async def test_what_is_held_back_comes_once_it_is_let_go(link: FaultyProxy):
    async with connected(link) as (reader, writer):
        link.hold(HOST)
        writer.write(b"late\n")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.readline(), 0.1)
        link.let_go(HOST)
        assert await asyncio.wait_for(reader.readline(), 20.0) == b"late\n"


async def test_a_cut_ends_what_is_open_and_nothing_else(link: FaultyProxy):
    async with connected(link) as (reader, _):
        assert link.num_open(HOST) == 1
        assert link.cut(HOST) == 1
        assert await asyncio.wait_for(the_end_of(reader), 20.0) == b""
        assert link.cut("127.0.0.9") == 0
    async with connected(link) as (reader, writer):
        writer.write(b"new\n")
        assert await reader.readline() == b"new\n"


CALL = """
import asyncio, sys
from adasd.errors import AdasdError
from adasd.rounds import OpenCall, SamplingTransform
from services.transport.link_pool import LinkPool
from services.transport.link import WorkerAddress
from services.transport.rounds_client import RoundsLine

async def main():
    pool = LinkPool()
    line = RoundsLine(pool, WorkerAddress("target", sys.argv[1], "life"), "session", timeout_s=10.0)
    try:
        await line.open(OpenCall("session", SamplingTransform(), 8))
    except AdasdError as error:
        print(type(error).__name__)
    finally:
        await line.close()
        await pool.close()

asyncio.run(main())
"""


async def test_the_lines_to_workers_take_the_way_through_it(link: FaultyProxy):
    """In its own process, since gRPC reads the environment at start."""
    asked = asyncio.Event()

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
            if (await reader.read(3)) == b"PRI":  # how HTTP/2 begins
                assert link.num_open(HOST) == 1
                asked.set()

    async with await asyncio.start_server(note, HOST, 0) as server:
        address = f"{HOST}:{server.sockets[0].getsockname()[1]}"
        caller = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            CALL,
            address,
            env={"grpc_proxy": f"http://{HOST}:{link.port}"},
            stdout=subprocess.PIPE,
        )
        output, _ = await asyncio.wait_for(caller.communicate(), 30.0)
    assert asked.is_set()
    assert output.strip() == b"WorkerLost"
