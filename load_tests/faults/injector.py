"""Injects faults into a local cluster, one after the other, while a load runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from load_tests.faults.faults import Faults, Injected

EVERY_S = 8.0
RECOVERY_S = 15.0
"""How long the next fault waits for the service to recover; some faults should come before it has."""


@dataclass(frozen=True, slots=True)
class Injection:
    """An injected fault and its time (seconds of the load's clock)."""

    kind: str
    what: str
    at_s: float


@asynccontextmanager
async def injecting(
    faults: Faults,
    now: Callable[[], float],
    every_s: float,
    kinds: Sequence[str],
    tell: Callable[[Injection], Any] = lambda injection: None,
) -> AsyncIterator[list[Injection]]:
    """A fault every ``every_s`` seconds, each kind once before any repeats; at the end all are undone."""
    injections: list[Injection] = []
    undoing, ended = set[asyncio.Task[None]](), asyncio.Event()

    async def rest(seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await ended.wait()

    async def undo(injected: Injected) -> None:
        assert injected.undo is not None
        await rest(injected.lasts_s)
        await asyncio.to_thread(injected.undo)

    async def recovery() -> None:
        for _ in range(int(RECOVERY_S)):
            if ended.is_set() or await asyncio.to_thread(faults.cluster.is_ready):
                return
            await rest(1.0)

    async def inject() -> None:
        order = list[str]()
        while not ended.is_set():
            order = order or faults.rng.sample(list(kinds), len(kinds))
            kind = order.pop()
            at_s, injected = now(), await asyncio.to_thread(faults.inject, kind)
            if injected is None:
                order.insert(0, kind)  # no victim now; try again later
            else:
                injections.append(Injection(kind, injected.what, at_s))
                tell(injections[-1])
                if injected.undo is not None:
                    undoing.add(asyncio.create_task(undo(injected)))
            await rest(every_s)
            await recovery()

    task = asyncio.create_task(inject())
    try:
        yield injections
    finally:
        ended.set()
        await asyncio.gather(task, *undoing)
        await asyncio.to_thread(faults.cluster.restart_if_dead, *faults.cluster.nodes)
