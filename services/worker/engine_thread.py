"""The thread that owns an engine: it takes requests from its inbox, steps, and hands over answers in batches."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from adasd.errors import AdasdError, Cancelled, DeviceFailure, Superseded, UnknownSession
from adasd.ports import Clock, Engine
from adasd.rounds import CallFailed, DraftBlock, OpenCall, Verdict, VerifyCall
from services.worker.call_order import Answer, Caller, CallOrder, QueuedCall
from services.worker.host_stats import HostCounters, num_decided, num_prefilled

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OpenSlot:
    """Take a slot; the answer is None."""

    call: OpenCall
    caller: Caller


@dataclass(frozen=True, slots=True)
class CloseSlot:
    """Free a slot; the answer to the caller, if there is one, is None."""

    session: str
    caller: Caller | None = None


@dataclass(frozen=True, slots=True)
class StopThread:
    """End the thread after its current step."""


Request = QueuedCall | OpenSlot | CloseSlot | StopThread


class EngineThread:
    """Runs until ``StopThread`` or a failure of the engine itself.

    ``on_ready`` gets the engine, ``on_answers`` all answers since the last time, ``on_end`` the failure or None.
    All three run in this thread. After ``idle_check_s`` seconds without a request the engine's ``check_integrity``
    runs once.
    """

    def __init__(
        self,
        make_engine: Callable[[], Engine],
        role: str,
        idle_check_s: float,
        clock: Clock,
        *,
        on_ready: Callable[[Engine], None],
        on_answers: Callable[[Sequence[tuple[Caller, Answer]]], None],
        on_end: Callable[[BaseException | None], None],
    ) -> None:
        self._make_engine, self._role, self._idle_check_s, self._clock = (
            make_engine,
            role,
            idle_check_s,
            clock,
        )
        self._on_ready, self._on_answers, self._on_end = on_ready, on_answers, on_end
        self._inbox: queue.SimpleQueue[Sequence[Request]] = queue.SimpleQueue()
        self._answers: list[tuple[Caller, Answer]] = []
        self._thread = threading.Thread(target=self._run, name=f"{role}-engine", daemon=True)
        self.order = CallOrder()  # other threads read its two numbers
        self.counters = HostCounters()  # other threads read snapshots
        self.step_began_s: float | None = None  # None between steps

    def start(self) -> None:
        self._thread.start()

    def put(self, requests: Sequence[Request]) -> None:
        """Hand in requests that came together, from any thread; a step between them is not possible."""
        self._inbox.put(requests)

    def join(self, timeout_s: float) -> bool:
        """Wait for the end; False if the thread still runs after ``timeout_s``."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        failure: BaseException | None = None
        try:
            engine = self._make_engine()
            self._on_ready(engine)
            while self._take_requests(engine):
                if engine.num_pending:
                    self._step(engine)
        except BaseException as error:
            failure = error
            log.exception("the %s engine's thread ends", self._role)
        self._on_end(failure)

    def _take_requests(self, engine: Engine) -> bool:
        """Handle all requests in the inbox, after waiting for one if the engine is idle; False ends the thread."""
        requests = self._next_requests(engine)
        while requests:
            for request in requests:
                if isinstance(request, StopThread):
                    return False
                self._handle(engine, request)
            requests = () if self._inbox.empty() else self._inbox.get()
        self._hand_over()
        return True

    def _next_requests(self, engine: Engine) -> Sequence[Request]:
        if engine.num_pending:
            return () if self._inbox.empty() else self._inbox.get()
        with suppress(queue.Empty):
            return self._inbox.get(timeout=self._idle_check_s)
        engine.check_integrity()
        return self._inbox.get()

    def _handle(self, engine: Engine, request: QueuedCall | OpenSlot | CloseSlot) -> None:
        match request:
            case OpenSlot(opening, caller):
                error = self._attempt(lambda: engine.open(opening))
                if error is None:
                    self.order.open(opening.session)
                self._answers.append((caller, error))
            case CloseSlot(session, whom):
                for dropped in self.order.close(session):
                    self._reply(dropped, UnknownSession(session))
                error = self._attempt(lambda: engine.close(session))
                if whom is not None:
                    self._answers.append((whom, error))
            case QueuedCall(call):
                if self.order.is_outdated(call):
                    self._reply(request, Superseded(call.session, call.epoch))
                elif self.order.must_wait(call):
                    self.order.wait(request)
                else:
                    self._submit(engine, request)

    def _submit(self, engine: Engine, queued: QueuedCall) -> None:
        """Give the call to the engine, or answer it with an error. A call whose caller has left is dropped."""
        call = queued.call
        if queued.caller.has_left():
            self._answers.append((queued.caller, Cancelled("the caller no longer waits")))
            return
        if isinstance(call, VerifyCall):
            resolved = self.order.resolved(call)
            if resolved is None:
                self._reply(queued, Superseded(call.session, call.epoch))
                return
            if call.assuming is not None:  # until the verdict, this worker could not start on it
                queued = replace(queued, arrived_s=self._clock())
            call = resolved
        error = self._attempt(lambda: engine.submit(call))
        if error is not None:
            self._reply(queued, error)
        elif (replaced := self.order.started(queued)) is not None:
            self._reply(replaced, Superseded(call.session, replaced.call.epoch))

    def _attempt(self, action: Callable[[], None]) -> AdasdError | None:
        """Run one caller's action; returns its error, which concerns only that caller."""
        try:
            action()
        except AdasdError as error:
            return error
        except Exception as error:
            log.exception("the %s engine refused a call for an unforeseen reason", self._role)
            return AdasdError(f"the engine refused the call: {type(error).__name__}: {error}")
        return None

    def _step(self, engine: Engine) -> None:
        """One forward pass over all submitted calls."""
        num_calls, began_s = engine.num_pending, self._clock()
        self.step_began_s = began_s
        results = engine.step()
        self.step_began_s = None
        ended_s = self._clock()
        num_tokens = 0
        for result in results:
            queued = self.order.finished(result.session, result.epoch)
            if queued is not None:
                num_tokens += num_prefilled(queued.call, result) + num_decided(result)
                self._reply(queued, _timed(result, 1e3 * (ended_s - queued.arrived_s)))
                if isinstance(queued.call, VerifyCall) and isinstance(result, Verdict):
                    self.order.remember(queued.call, result)
            while (ready := self.order.next_ready(result.session)) is not None:
                self._submit(engine, ready)
        self.counters.add_step(num_calls, num_tokens, ended_s - began_s, engine.prefix_stats)
        self._hand_over()

    def _reply(self, queued: QueuedCall, reply: DraftBlock | Verdict | AdasdError) -> None:
        self.counters.add_reply(queued.call, reply)
        self._answers.append((queued.caller, reply))

    def _hand_over(self) -> None:
        """Hand over all answers since the last time, so that the event loop wakes once for them."""
        if self._answers:
            answers, self._answers = self._answers, []
            self._on_answers(answers)


def _timed(
    result: DraftBlock | Verdict | CallFailed, in_worker_ms: float
) -> DraftBlock | Verdict | AdasdError:
    """The result with its queue time, or the error that it carries."""
    if isinstance(result, CallFailed):
        error = result.error
        return error if isinstance(error, AdasdError) else DeviceFailure(f"{type(error).__name__}: {error}")
    return replace(result, queue_ms=max(0.0, in_worker_ms - result.compute_ms))
