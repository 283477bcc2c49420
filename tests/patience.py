"""Waits with a generous limit, for busy machines: a timeout here is no claim about speed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

PATIENCE_S = 20.0


async def soon(condition: Callable[[], bool]) -> None:
    """Returns once the condition holds; raises TimeoutError after PATIENCE_S seconds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 (most conditions have no event)
            await asyncio.sleep(0.005)
