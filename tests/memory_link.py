"""A link without a network: the orchestrator's real end and the worker's, with frames that may be late, lost or twice.

A MemoryChannel stands for the gRPC channel of a Link; whoever serves it gets a MemoryStream per link.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping

import grpc

from adasd.testing.faulty_port import LinkFaults
from services.transport.ask_codec import decode_asks
from services.transport.frames import AskFrame

CALM = LinkFaults()


class Way:
    """Frames in one direction. ``arrived`` is a queue of them; None is the end of the stream."""

    def __init__(self, faults: LinkFaults, rng: random.Random) -> None:
        self.faults, self.rng = faults, rng
        self.arrived: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.num_sent = self.num_dropped = 0
        self._newest_s = 0.0

    def send(self, frame: bytes) -> None:
        loop, faults = asyncio.get_running_loop(), self.faults
        self.num_sent += 1
        if self.rng.random() < faults.drop:
            self.num_dropped += 1
            return
        for _ in range(1 + (self.rng.random() < faults.duplicate)):
            if not faults.delay_s:
                self.arrived.put_nowait(frame)
                continue
            at_s = loop.time() + self.rng.uniform(0.0, faults.delay_s)
            if faults.in_order:
                at_s = self._newest_s = max(at_s, self._newest_s + 1e-6)
            loop.call_at(at_s, self.arrived.put_nowait, frame)

    def end(self) -> None:
        self.arrived.put_nowait(None)


class MemoryStream:
    """The worker's end (services.transport.server.LinkStream)."""

    def __init__(self, there: Way, back: Way) -> None:
        self.there, self.back = there, back

    async def read(self, leases: Mapping[int, str]) -> AskFrame | None:
        data = await self.there.arrived.get()
        return None if data is None else decode_asks(data, leases)

    async def write(self, frame: bytes) -> None:
        await asyncio.sleep(0)
        self.back.send(frame)


class _Call:
    """The orchestrator's end, as grpc.aio's StreamStreamCall."""

    def __init__(self, channel: MemoryChannel) -> None:
        self._channel = channel
        rng = channel.rng
        self.there, self.back = Way(channel.faults, rng), Way(channel.faults, rng)
        self._serving = asyncio.create_task(self._serve())

    async def _serve(self) -> None:
        try:
            await self._channel.serve(MemoryStream(self.there, self.back))
        finally:
            self.back.end()

    async def read(self) -> object:
        data = await self.back.arrived.get()
        if data is None:
            error = None if self._serving.cancelled() else self._serving.exception()
            if error is not None:
                raise error
            return grpc.aio.EOF
        return data

    async def write(self, frame: bytes) -> None:
        await self._channel.may_write.wait()
        if self._serving.done():
            raise asyncio.InvalidStateError("the stream is over")
        self.there.send(frame)

    def cancel(self) -> None:
        self._serving.cancel()


class MemoryChannel:
    """In place of grpc.aio.Channel: each stream is served by ``serve`` in a task."""

    def __init__(
        self,
        serve: Callable[[MemoryStream], Awaitable[None]],
        faults: LinkFaults = CALM,
        rng: random.Random | None = None,
    ) -> None:
        self.serve, self.faults, self.rng = serve, faults, rng or random.Random(0)
        self.calls: list[_Call] = []
        self.may_write = asyncio.Event()  # cleared: the network takes nothing
        self.may_write.set()

    def stream_stream(self, method: str) -> Callable[[], _Call]:
        def call() -> _Call:
            self.calls.append(_Call(self))
            return self.calls[-1]

        return call

    async def close(self) -> None:
        for call in self.calls:
            call.cancel()
        await asyncio.gather(*(call._serving for call in self.calls), return_exceptions=True)
