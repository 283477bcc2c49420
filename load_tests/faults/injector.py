"""Strikes the blows of the chaos rig, one after the other, while a load runs."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from load_tests.faults import chaos
from load_tests.faults.faults import KINDS, Blows, Struck
from load_tests.local_cluster import Rig

EVERY_S = 8.0
WHOLE_WITHIN_S = 15.0
NUM_SLOTS = 32


@dataclass(frozen=True, slots=True)
class Blow:
    """What was struck, and when (seconds since the start of the run)."""

    kind: str
    what: str
    at_s: float


def settings(models: Path) -> dict[str, Any]:
    """What the rig serves: the pair below ``models``, as in load_tests.faults.chaos."""
    return chaos.settings(models / "target", models / "draft", NUM_SLOTS)


@asynccontextmanager
async def striking(
    rig: Rig, deployed: dict[str, Any], now: Callable[[], float], seed: int
) -> AsyncIterator[list[Blow]]:
    """A blow every EVERY_S seconds, each kind once before any comes again; in the end all is undone."""
    blows: list[Blow] = []
    rng, undoing = random.Random(seed), set[asyncio.Task[None]]()
    hurting, calm = Blows(rig, deployed, rng), asyncio.Event()

    async def rest(seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await calm.wait()

    async def whole() -> None:
        """Until both tiers serve again, but not for long: some blows shall fall before."""
        for _ in range(int(WHOLE_WITHIN_S)):
            if calm.is_set() or await asyncio.to_thread(rig.is_ready):
                return
            await rest(1.0)

    async def undo(struck: Struck) -> None:
        assert struck.undo is not None
        await rest(struck.lasts_s)
        await asyncio.to_thread(struck.undo)

    async def strike() -> None:
        order = list[str]()
        while not calm.is_set():
            order = order or rng.sample(list(KINDS), len(KINDS))
            kind = order.pop()
            at_s, struck = now(), await asyncio.to_thread(hurting.strike, kind)
            if struck is not None:
                blows.append(Blow(kind, struck.what, at_s))
                if struck.undo is not None:
                    undoing.add(asyncio.ensure_future(undo(struck)))
            await rest(EVERY_S)
            await whole()

    striker = asyncio.ensure_future(strike())
    try:
        yield blows
    finally:
        calm.set()
        await asyncio.gather(striker, *undoing)
        await asyncio.to_thread(rig.restart_dead_nodes)
