"""A few threads that parse and tokenise what clients send, so that large prompts do not stop running streams."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

T = TypeVar("T")

NUM_READERS = 2
"""More would share the same processor with the event loop; further requests wait for their turn."""
_READERS = ThreadPoolExecutor(NUM_READERS, "reader")


async def read_aside(work: Callable[[], T]) -> T:
    """The result of blocking work, done by a reader."""
    return await asyncio.get_running_loop().run_in_executor(_READERS, copy_context().run, work)
