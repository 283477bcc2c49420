"""What a test must not leave behind."""

from __future__ import annotations

import asyncio

from tests.patience import PATIENCE_S

"""grpc.aio ends its own tasks a moment after its servers and channels are closed."""


async def nothing_runs() -> bool:
    """Whether only the caller's task runs, now or shortly after."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=PATIENCE_S)
    return asyncio.all_tasks() == {asyncio.current_task()}
