"""Threads that parse and tokenise requests, so that large prompts do not stall running streams."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

T = TypeVar("T")

NUM_READERS = 2
"""Threads; more would compete with the event loop for the processor. Further requests queue."""
_READERS = ThreadPoolExecutor(NUM_READERS, "reader")


async def read_aside(work: Callable[[], T]) -> T:
    """Run blocking work on a reader thread and return its result."""
    return await asyncio.get_running_loop().run_in_executor(_READERS, copy_context().run, work)
