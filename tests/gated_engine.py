"""An engine whose steps last until the test lets them end."""

from __future__ import annotations

import asyncio
import threading

from load_tests.latency.counting_engine import CountingEngine
from tests.patience import PATIENCE_S


class GatedEngine(CountingEngine):
    """Waits for ``gate`` inside every step; ``entered`` is set once a step has begun."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.gate, self.entered = threading.Event(), threading.Event()

    def step(self):
        self.entered.set()
        assert self.gate.wait(3 * PATIENCE_S)
        return super().step()


async def entered(engine: GatedEngine) -> None:
    assert await asyncio.to_thread(engine.entered.wait, PATIENCE_S)
