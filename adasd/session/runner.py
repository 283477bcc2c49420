"""Drives one answer over a Drafter and a Verifier: performs what the session asks for, one event at a time.

The runner knows ports, timers and the controller; it decides nothing. Every call runs beside it (adasd.session.tasks),
its outcome comes back as an event, and the session (adasd.session.protocol) says what follows. The service, the
in-process pair, the benchmarks and the tests all use this one, over ports of their own. Leaving ``run`` on any path
ends the calls and gives both slots back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from adasd.control.controller import Controller
from adasd.drafters.lookups import Lookups
from adasd.drafters.sources import DraftSources, is_leased
from adasd.errors import AdasdError, DeadlineExceeded, InvalidRequest, Overloaded, Superseded, WorkerLost
from adasd.ports import Decode, Drafter, Placement, Verifier
from adasd.requests import GenerationRequest, Mode
from adasd.results import Chunk, Complete
from adasd.rounds import BlockLate, DraftCall, RoundCompleted, SlotGranted, SlotLost, VerifyCall
from adasd.session.emission import complete
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
    Fail,
    Finish,
    Learn,
    Planned,
    TargetAnswered,
    TargetAttached,
    TargetDeclined,
    TargetLost,
)
from adasd.session.opening import check_length, open_call
from adasd.session.protocol import begin, step
from adasd.session.state import Phase
from adasd.session.tasks import AsyncioTasks, Tasks

log = logging.getLogger(__name__)

TARGET_RETRY_S = 0.02
"""Doubled with every target that an answer loses, from the second one on; at most RunnerSettings.reattach_s."""


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    """Deadlines and retries of one answer (times in seconds), and what its targets can do."""

    request_timeout_s: float
    draft_timeout_s: float  # a block that takes longer is late
    reattach_s: float  # between attempts to attach a draft
    max_target_losses: int = 5
    replaces_lost: bool = True  # False: the error of a slot ends the answer
    asks_early: bool = True  # targets take calls that assume a verdict


@dataclass(frozen=True, slots=True)
class SharedParts:
    """What all answers of one pair of models share."""

    controller: Controller
    lookups: Lookups
    eos_ids: frozenset[int]
    decode: Decode
    context_len: int  # tokens of prompt and answer
    settings: RunnerSettings
    as_timed: Callable[[RoundCompleted], RoundCompleted] = lambda done: (
        done
    )  # what is learned of a round's times


Observation = RoundCompleted | SlotGranted | SlotLost | BlockLate


@dataclass(slots=True)
class PendingEffects:
    """What a step of the session leaves to be done, by when it is done: the plan first, the rest at leisure."""

    plan: AskPlan | None = None
    rounds: list[RoundCompleted] = field(default_factory=list)  # to be told
    chunks: list[Chunk] = field(default_factory=list)  # to be yielded
    error: AdasdError | None = None  # why the session ended, if it failed


class Runner:
    """Runs one answer. Use once: ``async for event in runner.run(): ...``."""

    def __init__(
        self,
        request: GenerationRequest,
        shared: SharedParts,
        placement: Placement,
        tell: Callable[[Observation], object] = lambda _: None,
        tasks: Tasks | None = None,
    ) -> None:
        """Puts together everything that one answer needs. Raises InvalidRequest and ContextTooLong.

        ``tell`` hears of rounds and slots; ``tasks`` are those of the running asyncio loop where none are given.
        """
        if not request.prompt:
            raise InvalidRequest("the prompt has no tokens", "prompt")
        check_length(len(request.prompt), request.sampling.max_tokens, shared.context_len)
        self.request, self.shared, self.settings, self.tell = request, shared, shared.settings, tell
        self.open_call = open_call(request, shared.eos_ids)
        transform = self.open_call.transform
        self.effective = shared.controller.effective(request.speculation, transform)
        self.controller = shared.controller.session(self.effective, transform, request.prompt)
        self.placement = DraftSources(placement, shared.lookups, self.controller)
        self.tasks = tasks or AsyncioTasks()
        self.timeout_s = request.timeout_s or shared.settings.request_timeout_s
        self.target: Verifier | None = None
        self.draft: Drafter | None = None
        self.next_draft: Drafter | None = None  # attached, to be used once the session knows
        self.wants_draft = self.effective.mode is not Mode.OFF
        self.num_target_losses = 0
        self.is_over = False  # slots that are attached from now on are given back at once
        self.newest_draft_call = 0  # epoch
        self.newest_verdict_s = 0.0  # when it came
        self.verdict_posted: asyncio.Event | None = None  # of the newest verify call

    def cancel(self) -> None:
        """End the answer from outside (Abort); the stream ends with finish reason ``cancelled``."""
        self.tasks.post(Cancel())

    async def run(self) -> AsyncGenerator[Chunk | Complete, None]:
        """Chunks, one per verdict, then Complete; raises the error that ended a failed answer."""
        late = Fail(DeadlineExceeded("the request", self.timeout_s))
        deadline = self.tasks.call_later(self.timeout_s, partial(self.tasks.post, late))
        try:
            session, actions = begin(self.request, self.shared.eos_ids, self.shared.decode)
            while True:
                pending = self.perform(actions)
                if (
                    pending.plan is not None
                ):  # the next calls leave before anybody reads what the verdict said
                    session, actions = step(session, self.plan(pending.plan))
                    self.perform(actions)
                    await self.tasks.calls_have_left()
                for done in pending.rounds:
                    self.tell(done)
                for chunk in pending.chunks:
                    yield chunk
                if session.phase is Phase.FINISHED:
                    if pending.error is not None:
                        raise pending.error
                    self.shared.lookups.remember(session.committed[len(self.request.prompt) :])
                    yield complete(session, self.effective.options, self.controller)
                    return
                event = await self.tasks.next_event()
                if isinstance(event, DraftLeft):
                    self.adopt_draft()
                session, actions = step(session, event)
        finally:
            deadline.cancel()
            await self.give_back()

    # ----------------------------------------------------------------- actions

    def perform(self, actions: tuple[Action, ...]) -> PendingEffects:
        """Start what takes time, whose outcome comes back as an event; return what remains to be done."""
        pending = PendingEffects()
        for action in actions:
            match action:
                case AskDraft(call):
                    if self.draft is not None:  # else the session hears of its loss by an event of its own
                        self.tasks.spawn(self.ask_draft(call, self.draft))
                case AskVerify(call):
                    if self.target is not None:
                        before, posted = self.verdict_posted, None
                        if self.settings.asks_early:
                            self.verdict_posted = posted = asyncio.Event()
                        self.tasks.spawn(self.ask_verify(call, self.target, before, posted))
                case AttachTarget():
                    self.tasks.spawn(self.attach_target())
                case Learn(done):
                    if done.prefill:  # another target need not go through the prompt's tokens again
                        self.open_call = replace(self.open_call, prompt_logprobs=None)
                    else:
                        self.controller.learn(self.shared.as_timed(done))
                    pending.rounds.append(done)
                case AskPlan():
                    pending.plan = action
                case Emit(chunk):
                    pending.chunks.append(chunk)
                case Finish(_, error):
                    pending.error = error
        return pending

    def plan(self, ask: AskPlan) -> Planned:
        """The controller's rules for the next round; a better draft source is attached meanwhile."""
        other = self.controller.another_source(ask.remaining_tokens)
        if other is not None and self.draft is not None:
            self.tasks.spawn(self.change_draft(other, self.draft))
        plan = self.controller.plan(ask.remaining_tokens, ask.num_emitted, ask.num_relaxed)
        return Planned(plan.draft, plan.accept, plan.ahead, plan.instead, self.settings.asks_early)

    async def ask_draft(self, call: DraftCall, draft: Drafter) -> None:
        self.newest_draft_call = call.epoch
        late = self.tasks.call_later(self.settings.draft_timeout_s, partial(self.be_late, call))
        asked_s = time.perf_counter()
        try:
            drafted = await draft.draft(call)
        except Superseded as error:
            if call.epoch == self.newest_draft_call:  # by nothing that this runner sent
                self.lose(draft, error)
        except Exception as error:
            self.lose(draft, error)
        else:
            if draft is self.draft:
                self.tasks.post(DraftAnswered(drafted, 1e3 * (time.perf_counter() - asked_s)))
        finally:
            late.cancel()

    def be_late(self, call: DraftCall) -> None:
        if call.rule.max_tokens:  # a call that drafts nothing keeps no round waiting
            self.tell(BlockLate())
        self.tasks.post(DraftLate(call.epoch))

    async def ask_verify(
        self,
        call: VerifyCall,
        target: Verifier,
        before: asyncio.Event | None,
        posted: asyncio.Event | None,
    ) -> None:
        """Verdicts become events in the order of their calls: this one after ``before``, then ``posted`` is set."""
        asked_s = time.perf_counter()  # uvloop's own clock counts whole milliseconds
        try:
            verdict = await target.verify(call)
            if before is not None:
                await before.wait()
            if target is self.target:
                # one that was asked early waited for the verdict before it, not for the link or the worker
                began_s, self.newest_verdict_s = max(asked_s, self.newest_verdict_s), time.perf_counter()
                self.tasks.post(TargetAnswered(verdict, 1e3 * (self.newest_verdict_s - began_s)))
        except (InvalidRequest, Overloaded) as error:  # of the call, or of a slot that was never opened
            self.tasks.post(Fail(error))
        except Superseded as error:
            if call.assuming is None:  # by nothing that this runner sent
                return self.lose(target, error)
            if before is not None:
                await before.wait()
            if target is self.target:
                self.tasks.post(TargetDeclined(call.epoch))
        except AdasdError as error:
            self.lose(target, error)
        finally:
            if posted is not None:
                posted.set()

    # ----------------------------------------------------------------- slots

    async def attach_target(self) -> None:
        """Attach a target; at once after a first loss, then with longer and longer pauses."""
        if self.num_target_losses > 1:
            pause_s = TARGET_RETRY_S * 2.0 ** min(self.num_target_losses, 10)
            await asyncio.sleep(min(self.settings.reattach_s, pause_s))
        began_s = time.monotonic()
        try:
            target = await self.placement.attach_target(self.open_call)
        except AdasdError as error:
            self.tasks.post(Fail(error))
            return
        if self.is_over:
            return await target.release()
        self.target = target
        self.watch(target, "target", began_s)
        self.tasks.post(TargetAttached())
        if self.wants_draft:
            self.wants_draft = False  # whoever waits for its first target holds nothing else
            self.tasks.spawn(self.attach_draft())

    async def attach_draft(self) -> None:
        """Attach a draft, later if not now: it is never worth an answer."""
        draft = await self.new_draft(None)
        if draft is None:
            self.attach_draft_later()
            return
        self.draft = draft
        self.tasks.post(DraftAttached())

    async def change_draft(self, source: str, before: Drafter) -> None:
        """Attach another source first, then give the one in use back; without success nothing changes."""
        draft = await self.new_draft(source)
        if draft is None:
            return
        if self.draft is not before:  # lost meanwhile: its successor is on its way
            self.release(draft)
            return
        self.next_draft = draft
        self.tasks.post(DraftLeft())
        self.tasks.post(DraftAttached())

    async def new_draft(self, source: str | None) -> Drafter | None:
        """A draft of that source, or of the one that is due; None if there is none to be had, or no use for it."""
        began_s = time.monotonic()
        try:
            draft = await self.placement.attach_draft(self.open_call, source)
        except Exception as error:
            if not self.settings.replaces_lost:
                raise
            log.info("session %s gets no draft: %r", self.request.request_id, error)
            return None
        if self.is_over:
            await draft.release()
            return None
        self.watch(draft, "draft", began_s)
        return draft

    def attach_draft_later(self) -> None:
        def attach() -> None:
            if not self.is_over:
                self.tasks.spawn(self.attach_draft())

        self.tasks.call_later(self.settings.reattach_s, attach)

    def adopt_draft(self) -> None:
        """Exchange the draft at the moment in which the session forgets the old one's cache."""
        before, self.draft, self.next_draft = self.draft, self.next_draft, None
        if before is not None:
            self.release(before)

    def watch(self, slot: Drafter | Verifier, role: str, began_s: float) -> None:
        """Hear of the end of its lease."""
        if is_leased(slot):
            now_s = time.monotonic()
            self.tell(SlotGranted(self.request.request_id, role, now_s - began_s, now_s))
        slot.lost.add_done_callback(partial(self.lease_ended, slot))

    def lease_ended(self, slot: Drafter | Verifier, lost: Any) -> None:
        if not lost.cancelled():  # a release cancels it
            self.lose(slot, str(lost.result()))

    def lose(self, slot: Drafter | Verifier, error: Exception | str) -> None:
        """Give a slot up once, however many signs of its loss there are."""
        if slot is not self.target and slot is not self.draft:
            return
        if isinstance(error, Exception) and not self.settings.replaces_lost:
            raise error
        role = "target" if slot is self.target else "draft"
        if slot is self.target:
            self.target = None
            log.warning("session %s lost its target: %s", self.request.request_id, error)
            self.num_target_losses += 1
            if self.num_target_losses <= self.settings.max_target_losses:
                self.tasks.post(TargetLost())
            else:
                why = f"{error} (for the {self.num_target_losses}th time)"
                self.tasks.post(Fail(WorkerLost("target", why)))
        elif self.next_draft is not None:
            return  # it is being exchanged anyway
        else:
            self.draft = None
            log.warning("session %s lost its draft: %s", self.request.request_id, error)
            self.tasks.post(DraftLost())
            self.attach_draft_later()
        if is_leased(slot):
            self.tell(SlotLost(role))
        self.release(slot)

    def release(self, slot: Drafter | Verifier) -> None:
        self.tasks.spawn(slot.release(), to_its_end=True)

    async def give_back(self) -> None:
        """Cancel what runs and release the slots, whatever happens in between.

        A task may miss its cancellation (libraries swallow some); then ``is_over`` ends it.
        """
        self.is_over = True
        for slot in (self.target, self.draft, self.next_draft):
            if slot is not None:
                self.release(slot)
        self.target = self.draft = self.next_draft = None
        await self.tasks.close()
