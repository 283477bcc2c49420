"""Merges the answers of one order into one stream of events, in the order in which they occur."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing

from adasd.errors import AdasdError
from adasd.results import Chunk, Complete

Events = AsyncGenerator[Chunk | Complete, None]


async def merged(answers: Sequence[Events]) -> AsyncGenerator[tuple[int, Chunk | Complete], None]:
    """Yields ``(index of the answer, event)``; ends after the last Complete.

    Pulls at most one event ahead per answer, so a slow reader slows all of them. A finished answer is closed at once,
    since others may be waiting for its slots. The first failure is raised; a failure, or closing this generator, closes
    every answer.
    """
    async with AsyncExitStack() as stack:
        for answer in answers:
            await stack.enter_async_context(aclosing(answer))
        if len(answers) == 1:  # the common case, without a task per event
            event: Chunk | Complete | None = None
            while not isinstance(event, Complete):
                event = await next_event(answers[0])
                yield 0, event
            return
        waiting = {asyncio.create_task(next_event(answer)): i for i, answer in enumerate(answers)}
        closing: list[asyncio.Task[None]] = []
        stack.push_async_callback(_cancel, waiting)
        stack.push_async_callback(_end, closing)
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=waiting.__getitem__):
                index, event = waiting[task], task.result()
                yield index, event
                del waiting[task]
                if isinstance(event, Chunk):
                    waiting[asyncio.create_task(next_event(answers[index]))] = index
                else:
                    closing.append(asyncio.create_task(answers[index].aclose()))


async def next_event(events: Events) -> Chunk | Complete:
    """The next event; a stream that ends without Complete counts as failed."""
    try:
        return await anext(events)
    except StopAsyncIteration:
        raise AdasdError("the answer ended without its last event") from None


async def _cancel(waiting: dict[asyncio.Task[Chunk | Complete], int]) -> None:
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def _end(closing: list[asyncio.Task[None]]) -> None:
    await asyncio.gather(*closing, return_exceptions=True)
