"""A port over a faulty link: messages are delayed, reordered, duplicated or dropped. Seeded."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from adasd.errors import WorkerLost
from adasd.rounds import DraftBlock, DraftCall, Verdict, VerifyCall

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LinkFaults:
    """Faults of a link, drawn for each direction of each message."""

    delay_s: float = 0.0  # uniform between 0 and this
    in_order: bool = False  # delayed, but in order, as in a stream
    drop: float = 0.0  # probability
    duplicate: float = 0.0  # probability that a call is sent twice
    timeout_s: float = 0.2  # after which the reply counts as lost


class Calls(Protocol):
    """The calls of a Drafter and a Verifier."""

    async def draft(self, call: DraftCall) -> DraftBlock: ...
    async def verify(self, call: VerifyCall) -> Verdict: ...


class FaultyPort:
    """Wraps a port; raises WorkerLost if no reply arrives. ``close`` cancels messages under way."""

    def __init__(self, port: Calls, role: str, faults: LinkFaults, rng: random.Random) -> None:
        self.port, self.role, self.faults, self.rng = port, role, faults, rng
        self._copies: set[asyncio.Task[object]] = set()
        self._newest_s = {"out": 0.0, "back": 0.0}  # arrival of the last message, by the loop's clock

    async def draft(self, call: DraftCall) -> DraftBlock:
        return await self._carry(lambda: self.port.draft(call))

    async def verify(self, call: VerifyCall) -> Verdict:
        return await self._carry(lambda: self.port.verify(call))

    async def close(self) -> None:
        for copy in self._copies:
            copy.cancel()
        await asyncio.gather(*self._copies, return_exceptions=True)

    async def _carry(self, send: Callable[[], Awaitable[T]]) -> T:
        if self.rng.random() < self.faults.duplicate:
            copy: asyncio.Task[object] = asyncio.create_task(self._once(send))
            self._copies.add(copy)
            copy.add_done_callback(self._forget)
        try:
            async with asyncio.timeout(self.faults.timeout_s):
                return await self._once(send)
        except TimeoutError:
            raise WorkerLost(self.role, f"no answer in {self.faults.timeout_s:g} s") from None

    async def _once(self, send: Callable[[], Awaitable[T]]) -> T:
        await self._travel("out")
        answer = await send()
        await self._travel("back")
        return answer

    async def _travel(self, direction: str) -> None:
        if self.rng.random() < self.faults.drop:
            await asyncio.Event().wait()  # never arrives
        loop = asyncio.get_running_loop()
        arrives_s = loop.time() + self.rng.uniform(0.0, self.faults.delay_s)
        if self.faults.in_order:
            arrives_s = self._newest_s[direction] = max(arrives_s, self._newest_s[direction] + 1e-6)
        arrived = loop.create_future()
        timer = loop.call_at(arrives_s, arrived.set_result, None)  # asyncio.sleep would start later
        try:
            await arrived
        finally:
            timer.cancel()

    def _forget(self, copy: asyncio.Task[object]) -> None:
        self._copies.discard(copy)
        if not copy.cancelled():
            copy.exception()  # retrieve it, so that asyncio does not warn
