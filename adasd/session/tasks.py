"""How a runner's calls run concurrently: on an asyncio loop, or in the caller's thread without a loop."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future
from queue import SimpleQueue
from types import coroutine
from typing import Any, Protocol, TypeVar

from adasd.errors import AdasdError
from adasd.session.events import Event, Fail

log = logging.getLogger(__name__)
R = TypeVar("R")
Work = Coroutine[Any, Any, None]


class Timer(Protocol):
    """A pending callback."""

    def cancel(self) -> object: ...


class Tasks(Protocol):
    """A runner's concurrent work, and the queue of its events."""

    def post(self, event: Event) -> None:
        """Append an event to the queue."""
        ...

    async def next_event(self) -> Event:
        """Wait for the next event."""
        ...

    def spawn(self, work: Work, *, others_first: bool = False, to_its_end: bool = False) -> None:
        """Start work soon. ``close`` cancels it, or with ``to_its_end`` waits for it.

        ``others_first``: if work runs one piece at a time, all other work goes first.
        """
        ...

    async def calls_have_left(self) -> None:
        """Let the spawned calls be sent, if that takes no more than a moment."""
        ...

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer: ...

    async def close(self) -> None:
        """End all spawned work."""
        ...


class AsyncioTasks:
    """On the running loop. An unexpected error in a task ends the answer with that error."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._cancelled: set[asyncio.Task[None]] = set()  # cancelled by ``close``
        self._awaited: set[asyncio.Task[None]] = set()

    def post(self, event: Event) -> None:
        self._events.put_nowait(event)

    async def next_event(self) -> Event:
        return await self._events.get()

    def spawn(self, work: Work, *, others_first: bool = False, to_its_end: bool = False) -> None:
        task = asyncio.get_running_loop().create_task(work)
        (self._awaited if to_its_end else self._cancelled).add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._cancelled.discard(task)
        self._awaited.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("a task of an answer failed", exc_info=error)
            self.post(Fail(AdasdError(f"internal error: {type(error).__name__}: {error}")))

    async def calls_have_left(self) -> None:
        """One iteration of the loop starts a call, the next writes it."""
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        return asyncio.get_running_loop().call_later(delay_s, callback)

    async def close(self) -> None:
        """Shielded, so that it completes if the caller is cancelled. Some libraries swallow a task's cancellation."""
        for task in tuple(self._cancelled):
            task.cancel()
        await asyncio.shield(asyncio.gather(*self._cancelled, *self._awaited, return_exceptions=True))


class InPlaceTasks:
    """In the caller's thread, one piece of work at a time; work waits for other threads with ``finished``.

    There is no clock: nothing is late, and nothing is retried. Errors are raised in the caller unchanged.
    """

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._ready: deque[Work] = deque()
        self._last: deque[Work] = deque()  # ready, but runs after the others
        self._waiting: set[Work] = set()
        self._kept: set[Work] = set()  # ``close`` waits for it
        self._resumed: SimpleQueue[Work] = SimpleQueue()  # its future is done

    def post(self, event: Event) -> None:
        self._events.append(event)

    async def next_event(self) -> Event:
        """Run work until there is an event; if all work waits, suspend until the next ``send``."""
        while not self._events:
            if self._ready:
                self._go_on(self._ready.popleft())
            elif not self._resumed.empty():
                self.wait()
            elif self._last:
                self._go_on(self._last.popleft())
            else:
                await asyncio.sleep(0)
        return self._events.popleft()

    def spawn(self, work: Work, *, others_first: bool = False, to_its_end: bool = False) -> None:
        if to_its_end:
            self._kept.add(work)
            self._go_on(work)
        else:
            (self._last if others_first else self._ready).append(work)

    def wait(self) -> None:
        """Block until a future that some work waits for is done."""
        assert self._waiting, "nothing is under way that could lead to an event"
        work = self._resumed.get()
        if work in self._waiting:
            self._waiting.remove(work)
            self._ready.append(work)

    def _go_on(self, work: Work) -> None:
        try:
            waits_for = work.send(None)
        except StopIteration:
            self._kept.discard(work)
            return
        if waits_for is None:
            self._ready.append(work)
        else:
            self._waiting.add(work)
            waits_for.add_done_callback(lambda _: self._resumed.put(work))

    async def calls_have_left(self) -> None:
        """Nothing to wait for: they run in ``next_event``."""

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        return NEVER

    async def close(self) -> None:
        for work in {*self._ready, *self._last, *self._waiting} - self._kept:
            work.close()
            self._waiting.discard(work)
        self._ready = deque(work for work in self._ready if work in self._kept)
        while self._kept:
            if self._ready:
                self._go_on(self._ready.popleft())
            else:
                self.wait()


class _Never:
    def cancel(self) -> None: ...


NEVER = _Never()


@coroutine
def finished(future: Future[R]) -> Generator[Future[R], None, R]:
    """Wait, without a loop, for another thread's result."""
    if not future.done():
        yield future
    return future.result()
