"""How a runner's calls are awaited side by side: on an asyncio loop, or in place, without any loop."""

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
    """What has not happened yet."""

    def cancel(self) -> object: ...


class Tasks(Protocol):
    """What runs beside a runner's loop, and the queue of its events."""

    def post(self, event: Event) -> None:
        """Something happened."""
        ...

    async def next_event(self) -> Event:
        """Wait until something has happened."""
        ...

    def spawn(self, work: Work, *, others_first: bool = False, to_its_end: bool = False) -> None:
        """Begin work soon. ``close`` cancels it, unless it has to come ``to_its_end``.

        ``others_first``: where work is done one after the other, all other work goes first.
        """
        ...

    async def calls_have_left(self) -> None:
        """Wait until the calls that were spawned are on their way, where that takes no more than a moment."""
        ...

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer: ...

    async def close(self) -> None:
        """End everything that was spawned."""
        ...


class AsyncioTasks:
    """On the running loop. An unforeseen error in a task ends the answer with an error instead of silence."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._cancelled: set[asyncio.Task[None]] = set()  # at the end
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
        """One turn of the loop begins a call, the next writes it."""
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        return asyncio.get_running_loop().call_later(delay_s, callback)

    async def close(self) -> None:
        """Whatever happens in between. A task may miss its cancellation: libraries swallow some."""
        for task in tuple(self._cancelled):
            task.cancel()
        await asyncio.shield(asyncio.gather(*self._cancelled, *self._awaited, return_exceptions=True))


class InPlaceTasks:
    """In the caller's thread, one piece of work after the other; ``finished`` waits for what others do meanwhile.

    There is no clock: nothing is late, and nothing is tried again later. Errors reach the caller as they are.
    """

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._ready: deque[Work] = deque()
        self._last: deque[Work] = deque()  # ready, too, but lets the others go first
        self._waiting: set[Work] = set()
        self._kept: set[Work] = set()  # comes to its end whatever happens
        self._resumed: SimpleQueue[Work] = SimpleQueue()  # what it waited for is done

    def post(self, event: Event) -> None:
        self._events.append(event)

    async def next_event(self) -> Event:
        """Goes on with work until something happens; suspends where all of it waits, until the next ``send``."""
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
        """Block until something is done that work waits for."""
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
        """They are made when the caller comes back."""

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
    """Wait in place for what another thread does."""
    if not future.done():
        yield future
    return future.result()
