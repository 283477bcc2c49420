"""An async facade over an engine in a thread of its own, so that concurrent callers share its batches."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import overload

from adasd.errors import AdasdError, DeviceFailure, WorkerLost
from adasd.ports import Clock, Engine
from adasd.rounds import CacheUse, DraftBlock, DraftCall, OpenCall, Verdict, VerifyCall
from services.worker.call_order import Answer, Caller, QueuedCall
from services.worker.engine_thread import CloseSlot, EngineThread, OpenSlot, StopThread
from services.worker.host_stats import HostStats

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """Constants of an engine."""

    num_slots: int  # concurrent sessions
    max_context: int  # tokens per slot
    vocab_size: int
    verdict_backend: str


@dataclass(frozen=True, slots=True, eq=False)
class AwaitingCaller:
    """A caller that awaits its answer."""

    future: asyncio.Future[DraftBlock | Verdict | None]

    def has_left(self) -> bool:
        return self.future.cancelled()

    def answer(self, answer: Answer) -> None:
        if self.future.done():
            return
        if isinstance(answer, AdasdError):
            self.future.set_exception(answer)
        else:
            self.future.set_result(answer)


class EngineHost:
    """Runs an engine in a thread and serves it to one event loop, on which all methods are called.

    ``make_engine`` runs in the thread. ``role`` (draft or target) appears in errors. ``idle_check_s``: see
    EngineThread.
    """

    def __init__(
        self,
        make_engine: Callable[[], Engine],
        role: str = "target",
        idle_check_s: float = 0.5,
        clock: Clock = time.perf_counter,
    ) -> None:
        self.role, self.clock = role, clock
        self._thread = EngineThread(
            make_engine,
            role,
            idle_check_s,
            clock,
            on_ready=self._on_ready,
            on_answers=lambda answers: self._post(lambda: self._answer(answers)),
            on_end=lambda failure: self._post(lambda: self._on_thread_end(failure)),
        )
        self._waiting: set[Caller] = set()
        self._ended_by: AdasdError | None = None
        self._loop: asyncio.AbstractEventLoop
        self._ready: asyncio.Future[EngineFacts]
        self._prepare: Callable[[OpenCall], None]  # the engine's; any thread may call it, and the next
        self._cache_use: Callable[[], CacheUse]
        self.facts: EngineFacts

    async def start(self) -> EngineFacts:
        """Make the engine; raises the error of ``make_engine``."""
        self._loop = asyncio.get_running_loop()
        self._ready = self._loop.create_future()
        self._thread.start()
        self.facts = await asyncio.shield(self._ready)
        return self.facts

    def submit_all(self, requests: Sequence[QueuedCall | OpenSlot | CloseSlot]) -> None:
        """Hand in requests that came together. Every caller is answered, if need be with the error that ended the host.

        See ``submit`` for the order of a session's calls and the errors. A grammar must be compiled before (``open``).
        """
        if self._ended_by is not None:
            for request in requests:
                if request.caller is not None:
                    request.caller.answer(self._ended_by)
            return
        self._waiting.update(request.caller for request in requests if request.caller is not None)
        self._thread.put(requests)

    async def prepare(self, call: OpenCall) -> None:
        """Compile the call's grammar in another thread, so that the engine keeps stepping; InvalidRequest."""
        if call.transform.grammar is not None:
            await asyncio.to_thread(self._prepare, call)

    async def open(self, call: OpenCall) -> None:
        """Prepare, then take a slot; raises Overloaded or InvalidRequest.

        A cancelled caller must ``release`` the slot.
        """
        await self.prepare(call)
        await self._answer_to(lambda caller: OpenSlot(call, caller))

    @overload
    async def submit(self, call: DraftCall) -> DraftBlock: ...
    @overload
    async def submit(self, call: VerifyCall) -> Verdict: ...
    async def submit(self, call: DraftCall | VerifyCall) -> DraftBlock | Verdict:
        """The result of a call; its ``queue_ms`` is the time in this worker outside of forward passes.

        A session's calls run one after the other, except that a newer draft call replaces older draft calls.
        If the caller is cancelled, a call in the engine still runs, and its result is dropped.

        Raises the call's own error (UnknownSession, StaleCache, InvalidRequest, DeviceFailure), UnknownSession if
        the session is closed before the result, Superseded if a newer draft call replaced this one or the assumed
        verdict did not come true, and WorkerLost or DeviceFailure once the host has ended.
        """
        result = await self._answer_to(lambda caller: QueuedCall(call, caller, self.clock()))
        assert result is not None
        return result

    async def close(self, session: str) -> None:
        """Free the session's slot and return once it is free; idempotent."""
        await self._answer_to(lambda caller: CloseSlot(session, caller))

    def release(self, session: str) -> None:
        """Free the session's slot without waiting for it."""
        if self._ended_by is None:
            self._thread.put([CloseSlot(session)])

    async def stop(self, timeout_s: float = 10.0) -> None:
        """End the thread after its current step; waiting callers get WorkerLost. Idempotent."""
        self._end(WorkerLost(self.role, "it is shutting down"))
        self._thread.put([StopThread()])
        if not await asyncio.to_thread(self._thread.join, timeout_s):
            log.error(
                "the %s engine did not end its step within %g s; its thread is left", self.role, timeout_s
            )

    def check(self, hang_after_s: float) -> None:
        """Raise the reason why this host no longer serves: it has ended, or a step takes over ``hang_after_s`` s."""
        if self._ended_by is not None:
            raise self._ended_by
        began_s = self._thread.step_began_s
        if began_s is not None and self.clock() - began_s > hang_after_s:
            raise DeviceFailure(f"one forward pass has run for more than {hang_after_s:g} s")

    def stats(self) -> HostStats:
        """Counts since the start; cheap."""
        order = self._thread.order
        return self._thread.counters.snapshot(
            self.facts.num_slots, len(order), order.num_running, self._cache_use()
        )

    async def _answer_to(
        self, request: Callable[[Caller], QueuedCall | OpenSlot | CloseSlot]
    ) -> DraftBlock | Verdict | None:
        if self._ended_by is not None:
            raise self._ended_by
        caller = AwaitingCaller(self._loop.create_future())
        self._waiting.add(caller)
        self._thread.put([request(caller)])
        try:
            return await caller.future
        finally:
            self._waiting.discard(caller)

    def _answer(self, answers: Sequence[tuple[Caller, Answer]]) -> None:
        for caller, answer in answers:
            if caller in self._waiting:  # it was not answered when the host ended
                self._waiting.remove(caller)
                try:
                    caller.answer(answer)
                except Exception:  # the others must get theirs
                    log.exception("an answer of the %s engine could not be handed over", self.role)

    def _end(self, error: AdasdError) -> None:
        """Answer all waiting and later calls with ``error``; the first error is kept."""
        self._ended_by = self._ended_by or error
        waiting, self._waiting = self._waiting, set()
        for caller in waiting:
            caller.answer(self._ended_by)

    # ----------------------------------------------------------------- called in the engine's thread

    def _post(self, action: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(action)
        except RuntimeError:
            log.debug("the event loop ended before the %s engine's thread", self.role)

    def _on_ready(self, engine: Engine) -> None:
        self._prepare = engine.prepare
        self._cache_use = lambda: engine.cache_use
        facts = EngineFacts(engine.num_slots, engine.max_context, engine.vocab_size, engine.verdict_backend)
        self._post(lambda: self._become_ready(facts))

    # ----------------------------------------------------------------- posted to the event loop

    def _become_ready(self, facts: EngineFacts) -> None:
        if not self._ready.done():
            self._ready.set_result(facts)

    def _on_thread_end(self, failure: BaseException | None) -> None:
        if failure is not None and not self._ready.done():
            self._ready.set_exception(failure)
        self._end(DeviceFailure(f"the engine's thread ended: {type(failure).__name__}: {failure}"))
