"""A faulty link: an HTTP CONNECT proxy that delays, holds back or cuts the traffic.

gRPC uses it if the environment sets ``grpc_proxy=http://...``. Ray's own channels do not (they disable proxies), so
with that variable in the gateway's environment, the proxy affects only the links between orchestrators and workers.
"""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")
CHUNK_BYTES = 65536


@dataclass(slots=True)
class Way:
    """State of the link to one host."""

    delay_s: float = 0.0  # in each direction
    flows: asyncio.Event = field(default_factory=asyncio.Event)  # unset: everything is held back
    ends: set[asyncio.StreamWriter] = field(default_factory=set)  # of the open connections

    def __post_init__(self) -> None:
        self.flows.set()


class FaultyProxy:
    """Serves on a free port of 127.0.0.1; use as a context manager. Its event loop runs in its own thread."""

    def __init__(self) -> None:
        self.port = 0
        self._ways: defaultdict[str, Way] = defaultdict(Way)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="bad-link", daemon=True)
        self._carrying: set[asyncio.Task[None]] = set()

    def __enter__(self) -> FaultyProxy:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10.0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10.0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10.0)
        self._loop.close()

    # ----------------------------------------------------------------- faults of a link

    def delay(self, host: str, seconds: float) -> None:
        """From now on, delay everything to and from ``host`` by this time in each direction; 0 ends that."""
        self._do(lambda: setattr(self._ways[host], "delay_s", seconds))

    def hold(self, host: str) -> None:
        """Hold back all traffic, without an error; ``let_go`` delivers it."""
        self._do(lambda: self._ways[host].flows.clear())

    def let_go(self, host: str) -> None:
        self._do(lambda: self._ways[host].flows.set())

    def cut(self, host: str) -> int:
        """Reset all open connections; returns their number."""

        def reset() -> int:
            ends = tuple(self._ways[host].ends)
            for end in ends:
                end.transport.abort()
            return len(ends) // 2

        return self._do(reset)

    def num_open(self, host: str) -> int:
        """Number of open connections."""
        return self._do(lambda: len(self._ways[host].ends) // 2)

    def _do(self, action: Callable[[], T]) -> T:
        async def act() -> T:
            return action()

        return asyncio.run_coroutine_threadsafe(act(), self._loop).result(10.0)

    # ----------------------------------------------------------------- forwarding

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, "127.0.0.1", 0)

    async def _stop(self) -> None:
        self._server.close()
        for task in tuple(self._carrying):
            task.cancel()
        await asyncio.gather(*self._carrying, return_exceptions=True)
        await asyncio.sleep(0.01)  # aborted transports close in the next turns of the loop

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._carrying.add(task)
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._connect(reader, writer)
        finally:
            writer.transport.abort()
            self._carrying.discard(task)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Handle ``CONNECT host:port``, then forward both ways until an end closes."""
        asked = (await reader.readuntil(b"\r\n\r\n")).split()
        host, port = asked[1].decode().rsplit(":", 1)
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        way = self._ways[host]
        way.ends |= {writer, far_writer}
        try:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            there = asyncio.create_task(carry(reader, far_writer, way))
            back = asyncio.create_task(carry(far_reader, writer, way))
            try:
                await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (there, back):
                    task.cancel()
                await asyncio.gather(there, back, return_exceptions=True)
        finally:
            way.ends -= {writer, far_writer}
            far_writer.transport.abort()


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way) -> None:
    """Forward one direction of one connection, in order even if the delay changes."""
    loop = asyncio.get_running_loop()
    under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def deliver() -> None:
        while True:
            due_s, data = await under_way.get()
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            await way.flows.wait()
            writer.write(data)
            await writer.drain()
            under_way.task_done()

    delivering = asyncio.create_task(deliver())
    delivered: asyncio.Task[None] | None = None
    try:
        while data := await reader.read(CHUNK_BYTES):
            under_way.put_nowait((loop.time() + way.delay_s, data))
        delivered = asyncio.create_task(under_way.join())
        await asyncio.wait({delivering, delivered}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        tasks = [task for task in (delivering, delivered) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
