"""Performs what a session asks for: one runner per answer, one event at a time.

The runner knows ports, timers and the controller; it decides nothing. Every ask runs as a task whose outcome
comes back as an event; the session (adasd.session.protocol) says what follows. Leaving ``run`` on any path
cancels the tasks and gives both slots back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from adasd.control.controller import EffectiveSpeculation, SessionController
from adasd.errors import AdasdError, DeadlineExceeded, InvalidRequest, Overloaded, Superseded, WorkerLost
from adasd.requests import Mode
from adasd.results import Chunk, Complete
from adasd.rounds import DraftBlock, DraftCall, OpenCall, RoundCompleted, Verdict, VerifyCall
from adasd.session.events import (
    Action,
    AskDraft,
    AskPlan,
    AskVerify,
    AttachTarget,
    Cancel,
    DraftAnswered,
    DraftAttached,
    DraftLate,
    DraftLeft,
    DraftLost,
    Emit,
    Event,
    Fail,
    Finish,
    Learn,
    Planned,
    TargetAnswered,
    TargetAttached,
    TargetDeclined,
    TargetLost,
)
from adasd.session.protocol import begin, step
from adasd.session.report import complete
from adasd.session.state import Phase, Terms

log = logging.getLogger(__name__)

TARGET_RETRY_S = 0.02
"""Doubled with every target that an answer loses, from the second one on; at most Limits.reattach_s."""


class Attachment(Protocol):
    """A slot on a worker, held by a lease. ``lost`` ends when the lease does."""

    lost: asyncio.Future[str]

    async def draft(self, call: DraftCall) -> DraftBlock: ...
    async def verify(self, call: VerifyCall) -> Verdict: ...
    async def release(self) -> None: ...


class Placement(Protocol):
    """Finds workers with a free slot."""

    @property
    def draft_names(self) -> tuple[str, ...]:
        """Draft tiers, the preferred one first; empty: none."""
        ...

    async def attach_target(self, call: OpenCall) -> Attachment:
        """Raises Overloaded or WorkerLost when no replica grants a lease in time.

        What is wrong with the slot itself may be raised by its first call.
        """
        ...

    async def attach_draft(self, call: OpenCall, name: str | None = None) -> Attachment:
        """A slot of the draft tier of that name; without one, of the one preferred."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """Deadlines and retries of one answer; seconds."""

    request_timeout_s: float
    draft_timeout_s: float  # a block that takes longer is late
    reattach_s: float  # between attempts to lease a draft
    max_target_losses: int = 5


@dataclass(slots=True)
class PendingEffects:
    """What a step of the session leaves to be done, by when it is done: the plan first, the rest at leisure."""

    plan: AskPlan | None = None
    rounds: list[RoundCompleted] = field(default_factory=list)  # to be told
    chunks: list[Chunk] = field(default_factory=list)  # to be yielded
    error: AdasdError | None = None  # why the session ended, if it failed


async def outcome(lost: asyncio.Future[str]) -> str | None:
    """Waits for the end of a lease: why it was lost, or None if it was given back."""
    await asyncio.wait([lost])
    return None if lost.cancelled() else lost.result()


class Runner:
    """Runs one answer. Use once: ``async for event in runner.run(): ...``."""

    def __init__(
        self,
        terms: Terms,
        open_call: OpenCall,
        effective: EffectiveSpeculation,
        controller: SessionController,
        placement: Placement,
        limits: Limits,
        on_round: Callable[[RoundCompleted], None] = lambda _: None,
    ) -> None:
        self.terms, self.open_call, self.limits = terms, open_call, limits
        self.effective, self.controller, self.placement = effective, controller, placement
        self.on_round = on_round
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.tasks: set[asyncio.Task[None]] = set()  # cancelled at the end
        self.releases: set[asyncio.Task[None]] = set()  # awaited at the end
        self.target: Attachment | None = None
        self.draft: Attachment | None = None
        self.next_draft: Attachment | None = None  # attached, to be used once the session knows
        self.wants_draft = effective.mode is not Mode.OFF
        self.num_target_losses = 0
        self.is_over = False  # slots that are attached from now on are given back at once
        self.newest_draft_call = 0  # epoch
        self.newest_verdict_s = 0.0  # when it came
        self.verifying: asyncio.Task[None] | None = None  # the newest ask

    def cancel(self) -> None:
        """End the answer from outside (Abort); the stream ends with finish reason ``cancelled``."""
        self.events.put_nowait(Cancel())

    async def run(self) -> AsyncGenerator[Chunk | Complete, None]:
        """Chunks, one per verdict, then Complete; raises the error that ended a failed answer."""
        loop = asyncio.get_running_loop()
        late = DeadlineExceeded("the request", self.limits.request_timeout_s)
        deadline = loop.call_later(self.limits.request_timeout_s, self.events.put_nowait, Fail(late))
        try:
            session, actions = begin(self.terms)
            while True:
                pending = self.perform_all(actions)
                if pending.plan is not None:  # the next asks leave before anybody reads what the verdict said
                    session, actions = step(session, self.plan(pending.plan))
                    self.perform_all(actions)
                    await self.let_asks_leave()
                for done in pending.rounds:
                    self.on_round(done)
                for chunk in pending.chunks:
                    yield chunk
                if session.phase is Phase.FINISHED:
                    if pending.error is not None:
                        raise pending.error
                    yield complete(session, self.effective.options, self.controller)
                    return
                event = await self.events.get()
                if isinstance(event, DraftLeft):
                    self.adopt_draft()
                session, actions = step(session, event)
        finally:
            deadline.cancel()
            await self.give_back()

    # ----------------------------------------------------------------- actions

    @staticmethod
    async def let_asks_leave() -> None:
        """Asks travel in tasks of their own: one turn of the loop begins the ask, the next writes it."""
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def perform_all(self, actions: tuple[Action, ...]) -> PendingEffects:
        """Start what takes time, whose outcome comes back as an event; return what remains to be done."""
        pending = PendingEffects()
        for action in actions:
            match action:
                case AskDraft(call):
                    self.spawn(self.ask_draft(call, self.draft))
                case AskVerify(call):
                    self.verifying = self.spawn(self.ask_verify(call, self.verifying))
                case AttachTarget():
                    self.spawn(self.attach_target())
                case Learn(done):
                    if done.prefill:  # another target need not go through the prompt's tokens again
                        self.open_call = replace(self.open_call, prompt_logprobs=None)
                    else:
                        self.controller.learn(done)
                    pending.rounds.append(done)
                case AskPlan():
                    pending.plan = action
                case Emit(chunk):
                    pending.chunks.append(chunk)
                case Finish(_, error):
                    pending.error = error
        return pending

    def plan(self, ask: AskPlan) -> Planned:
        other = self.controller.another_source(ask.remaining_tokens)
        if other is not None and self.draft is not None:
            self.spawn(self.change_draft(other))
        plan = self.controller.plan(ask.remaining_tokens, ask.num_emitted, ask.num_relaxed)
        return Planned(plan.draft, plan.accept, plan.ahead, plan.instead, decodes_on=True)

    async def ask_draft(self, call: DraftCall, draft: Attachment | None) -> None:
        if draft is None:
            return  # lost meanwhile; the session hears of that by its own event
        loop = asyncio.get_running_loop()
        self.newest_draft_call = call.epoch
        late = loop.call_later(self.limits.draft_timeout_s, self.events.put_nowait, DraftLate(call.epoch))
        asked_s = time.perf_counter()
        try:
            drafted = await draft.draft(call)
        except Superseded as error:
            if call.epoch == self.newest_draft_call:  # by nothing that this runner sent
                self.lose(draft, str(error))
        except Exception as error:
            self.lose(draft, str(error))
        else:
            if draft is self.draft:
                self.events.put_nowait(DraftAnswered(drafted, 1e3 * (time.perf_counter() - asked_s)))
        finally:
            late.cancel()

    async def ask_verify(self, call: VerifyCall, before: asyncio.Task[None] | None) -> None:
        """``before`` is the ask before this one: answers become events in the order of their asks."""
        target = self.target
        if target is None:
            return
        asked_s = time.perf_counter()  # uvloop's own clock counts whole milliseconds
        try:
            verdict = await target.verify(call)
        except (InvalidRequest, Overloaded) as error:  # of the call, or of a slot that was never opened
            self.events.put_nowait(Fail(error))
        except Superseded as error:
            if call.assuming is None:  # by nothing that this runner sent
                return self.lose(target, str(error))
            await self.in_turn(before)
            if target is self.target:
                self.events.put_nowait(TargetDeclined(call.epoch))
        except AdasdError as error:
            self.lose(target, str(error))
        else:
            await self.in_turn(before)
            if target is self.target:
                # one that was asked early waited for the verdict before it, not for the link or the worker
                began_s, self.newest_verdict_s = max(asked_s, self.newest_verdict_s), time.perf_counter()
                self.events.put_nowait(TargetAnswered(verdict, 1e3 * (self.newest_verdict_s - began_s)))

    @staticmethod
    async def in_turn(before: asyncio.Task[None] | None) -> None:
        """Wait until the ask before was answered."""
        if before is not None and not before.done():
            await asyncio.wait({before})

    # ----------------------------------------------------------------- attachments

    async def attach_target(self) -> None:
        """Lease a target; at once after a first loss, then with longer and longer pauses."""
        if self.num_target_losses > 1:
            await asyncio.sleep(
                min(self.limits.reattach_s, TARGET_RETRY_S * 2.0 ** min(self.num_target_losses, 10))
            )
        try:
            target = await self.placement.attach_target(self.open_call)
        except AdasdError as error:
            self.events.put_nowait(Fail(error))
            return
        if self.is_over:
            return await target.release()
        self.target = target
        self.spawn(self.watch(self.target))
        self.events.put_nowait(TargetAttached())
        if not self.wants_draft:
            return
        self.wants_draft = False  # whoever waits for its first target holds nothing else
        self.spawn(self.keep_draft_attached())

    async def keep_draft_attached(self) -> None:
        """Lease a draft, and another whenever it is lost; never gives up, never hurries."""
        while not self.is_over:
            try:
                draft = await self.placement.attach_draft(self.open_call)
            except Exception as error:  # a draft is never worth an answer
                log.info("session %s runs without a draft: %r", self.terms.session, error)
            else:
                if self.is_over:
                    return await draft.release()
                self.draft = draft
                self.events.put_nowait(DraftAttached())
                while (attachment := self.draft) is not None:  # another one after a change
                    why = await outcome(attachment.lost)
                    if why is not None:
                        self.lose(attachment, why)
            await asyncio.sleep(self.limits.reattach_s)

    async def change_draft(self, source: str) -> None:
        """Attach another source first, then give the one in use back; without success nothing changes."""
        before = self.draft
        try:
            attachment = await self.placement.attach_draft(self.open_call, source)
        except Exception as error:
            log.info("session %s stays with its draft: %r", self.terms.session, error)
            return
        if self.is_over:
            return await attachment.release()
        if before is None or self.draft is not before:  # lost meanwhile: its successor is on its way
            self.release(attachment)
            return
        self.next_draft = attachment
        self.events.put_nowait(DraftLeft())
        self.events.put_nowait(DraftAttached())

    def adopt_draft(self) -> None:
        """Exchange the draft at the moment in which the session forgets the old one's cache."""
        before, self.draft, self.next_draft = self.draft, self.next_draft, None
        if before is not None:
            self.release(before)

    async def watch(self, attachment: Attachment) -> None:
        self.lose(attachment, await asyncio.shield(attachment.lost))

    def lose(self, attachment: Attachment, why: str) -> None:
        """Give up an attachment once, however many signs of its loss there are."""
        if attachment is self.target:
            self.target = None
            log.warning("session %s lost its target: %s", self.terms.session, why)
            self.events.put_nowait(self.after_target_loss(why))
        elif attachment is self.draft:
            if self.next_draft is not None:
                return  # it is being exchanged anyway
            self.draft = None
            log.warning("session %s lost its draft: %s", self.terms.session, why)
            self.events.put_nowait(DraftLost())
        else:
            return
        self.release(attachment)

    def after_target_loss(self, why: str) -> Event:
        """Another target while retries are left, else the end."""
        self.num_target_losses += 1
        if self.num_target_losses <= self.limits.max_target_losses:
            return TargetLost()
        return Fail(WorkerLost("target", f"{why} (for the {self.num_target_losses}th time)"))

    # ----------------------------------------------------------------- housekeeping

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.done)
        return task

    def done(self, task: asyncio.Task[None]) -> None:
        """An unforeseen error in a task ends the answer with an error instead of silence."""
        self.tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("session %s", self.terms.session, exc_info=error)
            self.events.put_nowait(Fail(AdasdError(f"internal error: {type(error).__name__}: {error}")))

    def release(self, attachment: Attachment) -> None:
        task = asyncio.get_running_loop().create_task(attachment.release())
        self.releases.add(task)
        task.add_done_callback(self.releases.discard)

    async def give_back(self) -> None:
        """Cancel what runs and release both slots, whatever happens in between.

        A task may miss its cancellation (libraries swallow some); then ``is_over`` ends it.
        """
        self.is_over = True
        for task in tuple(self.tasks):
            task.cancel()
        for held in (self.target, self.draft, self.next_draft):
            if held is not None:
                self.release(held)
        self.target = self.draft = self.next_draft = None
        await asyncio.shield(asyncio.gather(*self.tasks, *self.releases, return_exceptions=True))
