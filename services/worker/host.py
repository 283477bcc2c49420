"""One thread owns one engine; an async facade lets the event loop's callers share its batches.

The thread drains what was asked meanwhile, takes one step with all calls that wait, hands the answers to the
loop in one go, and sleeps when nothing waits. The loop's side knows futures, the thread's side the engine;
between them run frozen asks one way and answers the other way.
"""

from __future__ import annotations

import asyncio
import logging
import math
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TypeVar, overload

from adasd.errors import AdasdError, DeviceFailure, Superseded, UnknownSession, WorkerLost
from adasd.ports import Clock, Engine
from adasd.rounds import (
    Assumption,
    CallFailed,
    DraftBlock,
    DraftCall,
    OpenCall,
    PrefixStats,
    Verdict,
    VerifyCall,
)
from services.observability.buckets import STEP_TOKENS

log = logging.getLogger(__name__)

Answer = DraftBlock | Verdict | None | AdasdError
A = TypeVar("A", DraftBlock, Verdict)


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What does not change about the engine."""

    num_slots: int  # sessions at once
    max_context: int  # tokens per slot
    vocab_size: int


@dataclass(frozen=True, slots=True)
class HostStats:
    """A snapshot of the host's work since its start."""

    num_slots: int
    num_sessions: int  # open slots
    num_pending: int  # sessions with a call in the engine
    num_steps: int  # forward passes
    num_calls: int  # calls answered
    num_failed: int  # calls answered with an error
    num_tokens: int  # tokens drafted or decided
    busy_s: float  # seconds inside forward passes
    batch_sizes: tuple[tuple[int, int], ...]  # (calls in a step, steps), by calls
    waited_s: float = 0.0  # seconds that calls which a round waits for were here, outside of forward passes
    computed_s: float = 0.0  # seconds that they were in them
    num_optimistic: int = 0  # calls answered that assumed an acceptance
    step_tokens: tuple[tuple[float, int], ...] = ()  # (bound of STEP_TOKENS, steps up to it), by bound
    num_step_tokens: int = 0  # prompt tokens computed and tokens decided, in all steps
    prefix: PrefixStats = field(default_factory=PrefixStats)

    @property
    def mean_batch(self) -> float:
        """Calls per step; 0 before the first."""
        return sum(size * steps for size, steps in self.batch_sizes) / max(1, self.num_steps)


@dataclass(frozen=True, slots=True)
class _Close:
    session: str


@dataclass(frozen=True, slots=True)
class _Stop:
    pass


@dataclass(frozen=True, slots=True)
class _Ask:
    """One wish of the loop's side; nobody waits if ``future`` is None."""

    call: OpenCall | DraftCall | VerifyCall | _Close | _Stop
    future: asyncio.Future[DraftBlock | Verdict | None] | None
    asked_s: float


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a verdict said."""

    epoch: int
    next_token: int
    num_accepted: int
    whole: bool  # all of the block

    def bears_out(self, assumed: Assumption) -> bool:
        """Is what was assumed what came true?"""
        if assumed.epoch != self.epoch or assumed.next_token not in (None, self.next_token):
            return False
        return self.whole if assumed.num_accepted is None else assumed.num_accepted == self.num_accepted


@dataclass(slots=True)
class _Work:
    """What the thread knows. The loop reads single fields of it for statistics, and writes none."""

    sessions: dict[str, int] = field(default_factory=dict)  # open session -> its newest call's epoch
    running: dict[str, list[_Ask]] = field(default_factory=dict)  # calls in the engine, oldest first
    behind: dict[str, deque[_Ask]] = field(default_factory=dict)  # calls behind a running one
    answers: list[tuple[_Ask, Answer]] = field(default_factory=list)  # not handed over yet
    outcomes: dict[str, _Outcome] = field(default_factory=dict)  # of each session's newest verdict
    step_began_s: float | None = None  # None between steps
    num_steps: int = 0
    num_calls: int = 0
    num_failed: int = 0
    num_tokens: int = 0
    busy_s: float = 0.0
    batch_sizes: Counter[int] = field(default_factory=Counter)
    waited_s: float = 0.0
    computed_s: float = 0.0
    num_optimistic: int = 0
    step_tokens: Counter[float] = field(default_factory=Counter)
    num_step_tokens: int = 0
    prefix: PrefixStats = field(default_factory=PrefixStats)


class EngineHost:
    """Owns an engine in a thread of its own. Start it, use it, and stop it on one event loop.

    ``make_engine`` runs in the thread. ``role`` names the worker in WorkerLost. ``idle_check_s`` seconds after
    the last ask the engine's ``check_integrity`` runs once.
    """

    def __init__(
        self,
        make_engine: Callable[[], Engine],
        role: str = "target",
        idle_check_s: float = 0.5,
        clock: Clock = time.perf_counter,
    ) -> None:
        self._make_engine, self._role, self._idle_check_s, self._clock = (
            make_engine,
            role,
            idle_check_s,
            clock,
        )
        self._asks: queue.SimpleQueue[_Ask] = queue.SimpleQueue()
        self._work = _Work()
        self._waiting: set[asyncio.Future[DraftBlock | Verdict | None]] = set()
        self._over: AdasdError | None = None
        self._thread = threading.Thread(target=self._run, name=f"{role}-engine", daemon=True)
        self._loop: asyncio.AbstractEventLoop
        self._ready: asyncio.Future[EngineFacts]
        self._prepare: Callable[[OpenCall], None]  # the engine's, the one thing that any thread may use
        self.facts: EngineFacts

    # ----------------------------------------------------------------- the loop's side

    async def start(self) -> EngineFacts:
        """Make the engine in its thread; raises what making it raised."""
        self._loop = asyncio.get_running_loop()
        self._ready = self._loop.create_future()
        self._thread.start()
        self.facts = await asyncio.shield(self._ready)
        return self.facts

    async def open(self, call: OpenCall) -> None:
        """Take a slot; raises Overloaded or InvalidRequest. A caller that is cancelled must ``release`` it.

        A grammar is compiled beside the engine's thread, whose steps go on meanwhile.
        """
        if call.transform.grammar is not None:
            await asyncio.to_thread(self._prepare, call)
        await self._ask(call)

    @overload
    async def submit(self, call: DraftCall) -> DraftBlock: ...
    @overload
    async def submit(self, call: VerifyCall) -> Verdict: ...
    async def submit(self, call: DraftCall | VerifyCall) -> DraftBlock | Verdict:
        """The answer, with ``queue_ms`` as all the time in this worker that was not compute.

        Raises the call's own error (UnknownSession, StaleCache, InvalidRequest, DeviceFailure), UnknownSession
        if the session is closed meanwhile, Superseded if a newer draft call overtakes a draft call, or WorkerLost
        / DeviceFailure once the host is over. Other second calls of a session wait behind its first. If the
        caller is cancelled, a call that runs already still does, and its answer is dropped.
        """
        answer = await self._ask(call)
        assert answer is not None
        return answer

    async def close(self, session: str) -> None:
        """Free the session's slot and return once it is free; idempotent."""
        await self._ask(_Close(session))

    def release(self, session: str) -> None:
        """Free the session's slot without waiting for it."""
        if self._over is None:
            self._asks.put(_Ask(_Close(session), None, self._clock()))

    async def stop(self, timeout_s: float = 10.0) -> None:
        """End the thread after its current step; waiting callers get WorkerLost. Idempotent."""
        self._end(WorkerLost(self._role, "it is shutting down"))
        self._asks.put(_Ask(_Stop(), None, self._clock()))
        await asyncio.to_thread(self._thread.join, timeout_s)
        if self._thread.is_alive():
            log.error(
                "the %s engine did not end its step within %g s; its thread is left", self._role, timeout_s
            )

    def check(self, hang_after_s: float) -> None:
        """Raise the reason why this host serves no more: its end, or a step longer than ``hang_after_s``."""
        if self._over is not None:
            raise self._over
        began_s = self._work.step_began_s
        if began_s is not None and self._clock() - began_s > hang_after_s:
            raise DeviceFailure(f"one forward pass has run for more than {hang_after_s:g} s")

    def stats(self) -> HostStats:
        """A snapshot; cheap."""
        work = self._work
        return HostStats(
            num_slots=self.facts.num_slots,
            num_sessions=len(work.sessions),
            num_pending=len(work.running),
            num_steps=work.num_steps,
            num_calls=work.num_calls,
            num_failed=work.num_failed,
            num_tokens=work.num_tokens,
            busy_s=work.busy_s,
            batch_sizes=tuple(sorted(work.batch_sizes.copy().items())),
            waited_s=work.waited_s,
            computed_s=work.computed_s,
            num_optimistic=work.num_optimistic,
            step_tokens=tuple(sorted(work.step_tokens.copy().items())),
            num_step_tokens=work.num_step_tokens,
            prefix=work.prefix,
        )

    async def _ask(self, call: OpenCall | DraftCall | VerifyCall | _Close) -> DraftBlock | Verdict | None:
        if self._over is not None:
            raise self._over
        future: asyncio.Future[DraftBlock | Verdict | None] = self._loop.create_future()
        self._waiting.add(future)
        self._asks.put(_Ask(call, future, self._clock()))
        try:
            return await future
        finally:
            self._waiting.discard(future)

    def _resolve(self, answers: list[tuple[_Ask, Answer]]) -> None:
        for ask, answer in answers:
            if ask.future is None or ask.future.done():
                continue
            if isinstance(answer, AdasdError):
                ask.future.set_exception(answer)
            else:
                ask.future.set_result(answer)

    def _end(self, error: AdasdError) -> None:
        """Nothing is answered any more; the first reason counts."""
        self._over = self._over or error
        for future in self._waiting:
            if not future.done():
                future.set_exception(self._over)

    def _on_ready(self, facts: EngineFacts) -> None:
        if not self._ready.done():
            self._ready.set_result(facts)

    def _on_thread_end(self, failure: BaseException | None) -> None:
        if failure is not None and not self._ready.done():
            self._ready.set_exception(failure)
        self._end(DeviceFailure(f"the engine's thread ended: {type(failure).__name__}: {failure}"))

    # ----------------------------------------------------------------- the thread's side

    def _run(self) -> None:
        failure: BaseException | None = None
        try:
            engine = self._make_engine()
            self._prepare = engine.prepare
            facts = EngineFacts(engine.num_slots, engine.max_context, engine.vocab_size)
            self._post(lambda: self._on_ready(facts))
            while self._take(engine):
                if engine.num_pending:
                    self._step(engine)
        except BaseException as error:
            failure = error
            log.exception("the %s engine's thread ends", self._role)
        self._post(lambda: self._on_thread_end(failure))

    def _post(self, action: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(action)
        except RuntimeError:
            log.debug("the event loop ended before the %s engine's thread", self._role)

    def _take(self, engine: Engine) -> bool:
        """Perform everything asked so far, sleeping first if nothing runs; False ends the thread."""
        ask = self._next(engine)
        while ask is not None:
            if isinstance(ask.call, _Stop):
                return False
            self._perform(engine, ask)
            try:
                ask = self._asks.get_nowait()
            except queue.Empty:
                ask = None
        self._hand_over()
        return True

    def _next(self, engine: Engine) -> _Ask | None:
        if engine.num_pending:
            return None if self._asks.empty() else self._asks.get_nowait()
        with suppress(queue.Empty):
            return self._asks.get(timeout=self._idle_check_s)
        engine.check_integrity()
        return self._asks.get()

    def _perform(self, engine: Engine, ask: _Ask) -> None:
        match ask.call:
            case OpenCall() as opening:
                self._attempt(ask, lambda: self._open(engine, opening))
            case _Close(session):
                self._forget(session)
                self._attempt(ask, lambda: engine.close(session))
            case DraftCall() | VerifyCall() as call:
                if self._is_stale(call):
                    self._answer(ask, Superseded(call.session, call.epoch))
                elif self._must_wait(call):
                    self._work.behind.setdefault(call.session, deque()).append(ask)
                else:
                    self._submit(engine, ask, call)

    def _open(self, engine: Engine, call: OpenCall) -> None:
        engine.open(call)
        self._work.sessions[call.session] = -1

    def _is_stale(self, call: DraftCall | VerifyCall) -> bool:
        """Asked before, or overtaken on the way: epochs of a session only rise."""
        newest = self._work.sessions.get(call.session)
        if newest is None:
            return False  # the engine refuses it
        self._work.sessions[call.session] = max(newest, call.epoch)
        return call.epoch <= newest

    def _must_wait(self, call: DraftCall | VerifyCall) -> bool:
        """One call at a time, in order; only a draft call may overtake a draft call."""
        if call.session in self._work.behind:
            return True
        running = self._work.running.get(call.session, [])
        overtakes = isinstance(call, DraftCall) and all(isinstance(ask.call, DraftCall) for ask in running)
        return bool(running) and not overtakes

    def _submit(self, engine: Engine, ask: _Ask, call: DraftCall | VerifyCall) -> None:
        if ask.future is not None and ask.future.cancelled():
            return
        if isinstance(call, VerifyCall):
            if call.assuming is not None:
                outcome = self._work.outcomes.get(call.session)
                if outcome is None or not outcome.bears_out(call.assuming):
                    self._answer(ask, Superseded(call.session, call.epoch))
                    return
                if call.assuming.next_token is None:
                    call = replace(call, feed=(outcome.next_token,))
                ask = replace(ask, asked_s=self._clock())  # before, it waited for no fault of this worker
            self._work.outcomes.pop(call.session, None)
        if self._attempt(ask, lambda: engine.submit(call), answer_now=False):
            self._work.running.setdefault(call.session, []).append(ask)

    def _attempt(self, ask: _Ask, action: Callable[[], None], answer_now: bool = True) -> bool:
        """Run an action of one caller; its error is that caller's alone."""
        try:
            action()
        except AdasdError as error:
            self._answer(ask, error)
            return False
        except Exception as error:
            log.exception("the %s engine refused a call for an unforeseen reason", self._role)
            self._answer(ask, AdasdError(f"the engine refused the call: {type(error).__name__}: {error}"))
            return False
        if answer_now:
            self._answer(ask, None)
        return True

    def _forget(self, session: str) -> None:
        """The session's slot goes: whoever waits for it hears so."""
        self._work.sessions.pop(session, None)
        self._work.outcomes.pop(session, None)
        for ask in (*self._work.running.pop(session, ()), *self._work.behind.pop(session, ())):
            self._answer(ask, UnknownSession(session))

    def _step(self, engine: Engine) -> None:
        """One forward pass over all waiting calls."""
        work, batch, began_s = self._work, engine.num_pending, self._clock()
        work.step_began_s = began_s
        answers = engine.step()
        work.step_began_s = None
        ended_s = self._clock()
        work.num_steps += 1
        work.busy_s += ended_s - began_s
        work.batch_sizes[batch] += 1
        num_tokens = 0
        for answer in answers:
            ask = self._answered_by(answer)
            if ask is not None:
                num_tokens += _num_prompt_tokens(ask.call, answer) + _num_tokens(answer)
                self._answer(ask, _outcome(answer, 1e3 * (ended_s - ask.asked_s)))
                self._note(ask.call, answer)
            self._next_of(engine, answer.session)
        work.num_step_tokens += num_tokens
        work.step_tokens[next((bound for bound in STEP_TOKENS if num_tokens <= bound), math.inf)] += 1
        work.prefix = engine.prefix_stats
        self._hand_over()

    def _note(self, call: object, answer: DraftBlock | Verdict | CallFailed) -> None:
        """What the session's next call may have assumed."""
        if isinstance(call, VerifyCall) and isinstance(answer, Verdict):
            whole = answer.num_accepted == len(call.block)
            outcome = _Outcome(call.epoch, answer.next_token, answer.num_accepted, whole)
            self._work.outcomes[call.session] = outcome

    def _answered_by(self, answer: DraftBlock | Verdict | CallFailed) -> _Ask | None:
        """Take the oldest running call of the answer's epoch; None if the session was closed meanwhile."""
        running = self._work.running.get(answer.session, [])
        for ask in running:
            if isinstance(ask.call, DraftCall | VerifyCall) and ask.call.epoch == answer.epoch:
                running.remove(ask)
                if not running:
                    del self._work.running[answer.session]
                return ask
        return None

    def _next_of(self, engine: Engine, session: str) -> None:
        """Submit the session's next call that somebody still waits for."""
        behind = self._work.behind.get(session)
        while behind and session not in self._work.running:
            ask = behind.popleft()
            if isinstance(ask.call, DraftCall | VerifyCall):
                self._submit(engine, ask, ask.call)
        if not behind:
            self._work.behind.pop(session, None)

    def _answer(self, ask: _Ask, answer: Answer) -> None:
        work = self._work
        if isinstance(ask.call, DraftCall | VerifyCall):
            work.num_calls += 1
            work.num_failed += isinstance(answer, AdasdError)
            work.num_tokens += _num_tokens(answer)
            if isinstance(ask.call, DraftCall) and ask.call.optimistic:
                work.num_optimistic += 1
            elif isinstance(answer, DraftBlock | Verdict):
                work.waited_s += 1e-3 * answer.queue_ms
                work.computed_s += 1e-3 * answer.compute_ms
        work.answers.append((ask, answer))

    def _hand_over(self) -> None:
        """Give all answers since the last time to the loop, which wakes once for them."""
        if self._work.answers:
            answers, self._work.answers = self._work.answers, []
            self._post(lambda: self._resolve(answers))


def _outcome(
    answer: DraftBlock | Verdict | CallFailed, in_worker_ms: float
) -> DraftBlock | Verdict | AdasdError:
    if isinstance(answer, CallFailed):
        error = answer.error
        return error if isinstance(error, AdasdError) else DeviceFailure(f"{type(error).__name__}: {error}")
    return replace(answer, queue_ms=max(0.0, in_worker_ms - answer.compute_ms))


def _num_prompt_tokens(call: object, answer: object) -> int:
    """Tokens of a prompt that were computed for this answer; a prompt in pieces counts where it is complete."""
    if isinstance(call, VerifyCall) and isinstance(answer, Verdict) and call.keep_len == 0:
        return max(0, len(call.feed) - answer.cached_tokens)
    return 0


def _num_tokens(answer: Answer | CallFailed) -> int:
    match answer:
        case DraftBlock():
            return len(answer.tokens)
        case Verdict():
            return answer.num_accepted + 1
        case _:
            return 0
