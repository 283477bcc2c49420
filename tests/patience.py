"""Waiting for what has to come, however busy the machine is: a test's limit is no claim about time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

PATIENCE_S = 20.0


async def soon(condition: Callable[[], bool]) -> None:
    """Returns once the condition holds; TimeoutError after PATIENCE_S seconds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 (most of what is waited for has no event)
            await asyncio.sleep(0.005)
