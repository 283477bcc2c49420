"""Drives one answer over a Drafter and a Verifier: performs the session's actions, one event at a time.

The runner knows ports, timers and the controller; it decides nothing. Every call runs as a task (adasd.session.tasks),
its outcome comes back as an event, and the session (adasd.session.protocol) decides what follows. The service, the
in-process pair, the benchmarks and the tests all use this runner, each with its own ports. Leaving ``run`` on any
path ends the calls and gives both slots back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from functools import partial

from adasd.control.controller import Controller
from adasd.drafters.lookups import Lookups
from adasd.drafters.predicted import Prediction
from adasd.drafters.sources import DraftSources
from adasd.errors import AdasdError, DeadlineExceeded, InvalidRequest, Overloaded, Superseded
from adasd.ports import Clock, Decode, Drafter, Placement, Verifier
from adasd.requests import GenerationRequest
from adasd.results import Chunk, Complete
from adasd.rounds import BlockLate, DraftCall, RoundCompleted, VerifyCall
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
    Emit,
    Event,
    Fail,
    Finish,
    Learn,
    Planned,
    TargetAnswered,
    TargetDeclined,
)
from adasd.session.opening import check_length, open_call
from adasd.session.protocol import begin, step
from adasd.session.slots import Observation, RunnerSettings, SessionSlots
from adasd.session.state import Phase
from adasd.session.tasks import AsyncioTasks, Tasks

log = logging.getLogger(__name__)

PATIENCE_SHARE = 0.5
"""Share of ``draft_timeout_s`` after which the draft begins no further token, which leaves time for its reply.

So a slow block is cut short, not dropped: dropping it for its length would change what sampling emits.
"""


def as_measured(done: RoundCompleted) -> RoundCompleted:
    return done


@dataclass(frozen=True, slots=True)
class SharedParts:
    """What all answers of one pair of models share."""

    controller: Controller
    lookups: Lookups
    eos_ids: frozenset[int]
    decode: Decode
    context_len: int  # tokens of prompt and answer
    settings: RunnerSettings
    as_timed: Callable[[RoundCompleted], RoundCompleted] = as_measured  # applied before the controller learns
    clock: Clock = time.monotonic  # not the loop's: uvloop's has a resolution of 1 ms


@dataclass(slots=True)
class PendingEffects:
    """What remains to be done after a step of the session: the plan first, since the next calls wait for it."""

    plan: AskPlan | None = None
    done: RoundCompleted | None = None  # for the observers
    chunk: Chunk | None = None  # for the caller
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
        """Build everything that one answer needs. Raises InvalidRequest and ContextTooLong.

        ``tell`` is called with rounds and slot events; ``tasks`` defaults to the running asyncio loop.
        """
        if not request.prompt:
            raise InvalidRequest("the prompt has no tokens", "prompt")
        check_length(len(request.prompt), request.sampling.max_tokens, shared.context_len)
        self.request, self.shared, self.settings, self.tell = request, shared, shared.settings, tell
        opening = open_call(request, shared.eos_ids)
        self.effective = shared.controller.effective(request.speculation, opening.transform)
        self.controller = shared.controller.session(
            self.effective, opening.transform, request.prompt, predicted=bool(request.prediction)
        )
        if self.controller.chooses and not (self.controller.isolated or request.prediction):
            self.controller.judge_unused(shared.lookups.unused(request.prompt))
        self.tasks = tasks or AsyncioTasks()
        expected = Prediction(request.prediction, len(request.prompt)) if request.prediction else None
        self.slots = SessionSlots(
            opening,
            DraftSources(placement, shared.lookups, self.controller, expected),
            shared.settings,
            self.tasks,
            tell,
            wants_draft=self.first_round_drafts,
            clock=shared.clock,
        )
        self.newest_draft_epoch = 0
        self.newest_verdict_s = 0.0  # when it arrived
        self.verdict_posted: asyncio.Event | None = None  # of the newest verify call
        self.held: deque[Event] = deque()  # the exchange of the draft, while a round waits for its block

    def cancel(self) -> None:
        """End the answer from outside (Abort); its finish reason is ``cancelled``."""
        self.tasks.post(Cancel())

    async def run(self) -> AsyncGenerator[Chunk | Complete, None]:
        """Chunks, one per verdict, then Complete; raises the error that ended a failed answer."""
        timeout_s = self.request.timeout_s or self.settings.request_timeout_s
        late = Fail(DeadlineExceeded("the request", timeout_s))
        deadline = self.tasks.call_later(timeout_s, partial(self.tasks.post, late))
        try:
            patience_s = PATIENCE_SHARE * self.settings.draft_timeout_s
            session, actions = begin(self.request, self.shared.eos_ids, self.shared.decode, patience_s)
            while True:
                pending = self.perform(actions)
                if pending.plan is not None:  # send the next calls before yielding the verdict's chunk
                    session, actions = step(session, self.plan(pending.plan))
                    self.perform(actions)
                    await self.tasks.calls_have_left()
                if pending.done is not None:
                    self.tell(pending.done)
                if pending.chunk is not None:
                    yield pending.chunk
                if session.phase is Phase.FINISHED:
                    if pending.error is not None:
                        raise pending.error
                    self.shared.lookups.remember(session.committed[len(self.request.prompt) :])
                    yield complete(session, self.effective.options, self.controller)
                    return
                event = await self.next_event(session.phase)
                if isinstance(event, DraftLeft):
                    self.slots.adopt_draft()
                session, actions = step(session, event)
        finally:
            deadline.cancel()
            self.controller.end()
            self.slots.give_back()
            await self.tasks.close()

    async def next_event(self, phase: Phase) -> Event:
        """The next event. While a round waits for its block, the exchange of the draft waits, too.

        Otherwise the block would be dropped if it took longer than attaching the other draft, so for its length.
        """
        if self.held and phase is not Phase.DRAFTING:
            return self.held.popleft()
        event = await self.tasks.next_event()
        while phase is Phase.DRAFTING and (
            isinstance(event, DraftLeft) or (self.held and isinstance(event, DraftAttached))
        ):
            self.held.append(event)
            event = await self.tasks.next_event()
        return event

    # ----------------------------------------------------------------- actions

    def perform(self, actions: tuple[Action, ...]) -> PendingEffects:
        """Start calls, whose outcomes come back as events; return what remains to be done."""
        pending = PendingEffects()
        for action in actions:
            match action:
                # no call on a lost slot: the session learns of the loss by an event
                case AskVerify(call):
                    if self.slots.target is not None:
                        before, posted = self.verdict_posted, None
                        if self.settings.asks_early:
                            self.verdict_posted = posted = asyncio.Event()
                        work = self.ask_verify(call, self.slots.target, before, posted)
                        self.tasks.spawn(work, others_first=True)
                case AskDraft(call):
                    if self.slots.draft is not None:
                        self.tasks.spawn(self.ask_draft(call, self.slots.draft))
                case AttachTarget():
                    self.tasks.spawn(self.slots.attach_target())
                case Learn(done):
                    if done.prefill:
                        self.slots.prompt_was_read()
                        self.controller.wrote((done.verdict.next_token,))
                        self.controller.prompt_was_read()
                    else:
                        self.controller.learn(self.shared.as_timed(done))
                    pending.done = done
                case AskPlan():
                    pending.plan = action
                case Emit(chunk):
                    pending.chunk = chunk
                case Finish(_, error):
                    pending.error = error
        return pending

    def first_round_drafts(self) -> bool:
        """The target has a slot: whether the first round would draft. If not, no draft is attached until one would."""
        self.controller.slot_granted()
        return self.controller.plan(self.request.sampling.max_tokens, 0, 0).draft.max_tokens > 0

    def plan(self, ask: AskPlan) -> Planned:
        """The controller's rules for the next round; also starts to attach a draft that they need, or a better one."""
        other = self.controller.reconsider_source(ask.remaining_tokens)
        if other is not None and self.slots.draft is not None:
            self.tasks.spawn(self.slots.change_draft(other, self.slots.draft))
        elif other is not None:
            self.slots.want_draft(other)
        plan = self.controller.plan(ask.remaining_tokens, ask.num_emitted, ask.num_relaxed)
        if plan.draft.max_tokens > 0:
            self.slots.want_draft()
        return Planned(
            plan.draft, plan.accept, plan.drafts_ahead, plan.drafts_for_rejection, self.settings.asks_early
        )

    async def ask_draft(self, call: DraftCall, draft: Drafter) -> None:
        self.newest_draft_epoch = call.epoch
        late = self.tasks.call_later(self.settings.draft_timeout_s, partial(self.be_late, call))
        asked_s = self.shared.clock()
        try:
            drafted = await draft.draft(call)
        except Superseded as error:
            if call.epoch == self.newest_draft_epoch:  # superseded, but not by a call of this runner
                self.lose_draft(draft, call, error)
        except Exception as error:
            self.lose_draft(draft, call, error)
        else:
            if draft is self.slots.draft:
                waited_s = self.shared.clock() - max(asked_s, self.newest_verdict_s)
                self.tasks.post(DraftAnswered(drafted, 1e3 * waited_s))
        finally:
            late.cancel()

    def lose_draft(self, draft: Drafter, call: DraftCall, error: Exception) -> None:
        """Report the loss, or, of a draft that is being exchanged, just end the wait for its block."""
        self.slots.lose(draft, error)
        if draft is self.slots.draft:
            self.tasks.post(DraftLate(call.epoch))

    def be_late(self, call: DraftCall) -> None:
        if call.rule.max_tokens:  # no round waits for a call that drafts nothing
            self.tell(BlockLate())
        self.tasks.post(DraftLate(call.epoch))

    async def ask_verify(
        self,
        call: VerifyCall,
        target: Verifier,
        before: asyncio.Event | None,
        posted: asyncio.Event | None,
    ) -> None:
        """Post verdicts in the order of their calls: wait for ``before``, then set ``posted``."""
        asked_s = self.shared.clock()
        try:
            verdict = await target.verify(call)
            if before is not None:
                await before.wait()
            if target is self.slots.target:
                # an early call also waited for the verdict before it; that time is not its own
                before_s, self.newest_verdict_s = self.newest_verdict_s, self.shared.clock()
                elapsed_ms = 1e3 * (self.newest_verdict_s - max(asked_s, before_s))
                since_ms = 1e3 * (self.newest_verdict_s - before_s) if before_s else 0.0
                self.tasks.post(TargetAnswered(verdict, elapsed_ms, since_ms))
        except (InvalidRequest, Overloaded) as error:  # the call, or opening its slot, was refused
            self.tasks.post(Fail(self.slots.why_it_ends(error)))
        except Superseded as error:
            if call.assuming is None:  # superseded, but not by a call of this runner
                return self.slots.lose(target, error)
            if before is not None:
                await before.wait()
            if target is self.slots.target:
                self.tasks.post(TargetDeclined(call.epoch))
        except AdasdError as error:
            self.slots.lose(target, error)
        finally:
            if posted is not None:
                posted.set()
