"""The slots of one answer: attaches, watches, exchanges and releases them, and replaces lost ones."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from adasd.drafters.sources import is_leased
from adasd.errors import AdasdError, InvalidRequest, Overloaded, WorkerLost
from adasd.ports import Clock, Drafter, Placement, Verifier
from adasd.rounds import BlockLate, OpenCall, RoundCompleted, SlotGranted, SlotLost
from adasd.session.events import DraftAttached, DraftLeft, DraftLost, Fail, TargetAttached, TargetLost
from adasd.session.tasks import Tasks

log = logging.getLogger(__name__)

TARGET_RETRY_S = 0.02
"""Pause before attaching a new target; doubles with every lost target from the second on, up to ``reattach_s``."""

Observation = RoundCompleted | SlotGranted | SlotLost | BlockLate


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    """Deadlines and retries of one answer (times in seconds), and what its targets can do."""

    request_timeout_s: float
    draft_timeout_s: float  # a block that takes longer is late
    reattach_s: float  # between attempts to attach a draft
    max_target_losses: int = 5
    replaces_lost: bool = True  # False: the error of a slot ends the answer
    asks_early: bool = True  # targets take calls that assume a verdict


class SessionSlots:
    """The slots that a runner's calls go to. Changes are posted to the runner as events and told to observers."""

    def __init__(
        self,
        call: OpenCall,
        placement: Placement,
        settings: RunnerSettings,
        tasks: Tasks,
        tell: Callable[[Observation], object],
        *,
        wants_draft: Callable[[], bool],
        clock: Clock = time.monotonic,
    ) -> None:
        """``wants_draft``: asked when a target is attached, whether a draft shall be attached as well."""
        self._clock = clock
        self._call, self._placement, self._settings = call, placement, settings
        self._tasks, self._tell, self._wants_draft = tasks, tell, wants_draft
        self.target: Verifier | None = None
        self.draft: Drafter | None = None
        self._next_draft: Drafter | None = None  # attached; used once the session has seen DraftLeft
        self._asks_for_drafts = False  # whether drafts are attached, and replaced when they are lost
        self._num_target_losses = 0
        self._target_loss = ""  # the newest one's cause
        self._is_over = False  # slots that are attached from now on are given back at once

    def prompt_was_read(self) -> None:
        """The prompt's logprobs were sent; another target need not compute them again."""
        self._call = replace(self._call, prompt_logprobs=None)

    async def attach_target(self) -> None:
        """Attach a target: at once after the first loss, later with growing pauses."""
        if self._num_target_losses > 1:
            pause_s = TARGET_RETRY_S * 2.0 ** min(self._num_target_losses, 10)
            await asyncio.sleep(min(self._settings.reattach_s, pause_s))
        began_s = self._clock()
        try:
            target = await self._placement.attach_target(self._call)
        except AdasdError as error:
            self._tasks.post(Fail(self.why_it_ends(error)))
            return
        if self._is_over:
            return await target.release()
        self.target = target
        self._watch(target, "target", began_s)
        self._tasks.post(TargetAttached())
        if self._wants_draft():  # only now: no draft slot is held while waiting for the first target
            self.want_draft()

    def why_it_ends(self, error: AdasdError) -> AdasdError:
        """Why an answer ends that gets no target: the loss of the one it had, if it had one."""
        if not self._target_loss or not isinstance(error, Overloaded):
            return error
        return WorkerLost("target", f"{self._target_loss}, and no other one took over ({error.what})")

    def want_draft(self, source: str | None = None) -> None:
        """Attach a draft of that source (None: of the controller's choice), and replace it from now on when it is lost.

        Later calls do nothing.
        """
        if not self._asks_for_drafts:
            self._asks_for_drafts = True
            self._tasks.spawn(self._attach_draft(source))

    async def _attach_draft(self, source: str | None = None) -> None:
        """Attach a draft; try again later if there is none. A missing draft never fails the answer."""
        draft = await self._new_draft(source)
        if draft is None:
            self._attach_draft_later()
            return
        self.draft = draft
        self._tasks.post(DraftAttached())

    async def change_draft(self, source: str, before: Drafter) -> None:
        """Attach another source, then release the current one; if that fails, nothing changes."""
        draft = await self._new_draft(source)
        if draft is None:
            return
        # lost in the meantime, so a replacement is being attached; or another exchange was faster
        if self.draft is not before or self._next_draft is not None:
            self._release(draft)
            return
        self._next_draft = draft
        self._tasks.post(DraftLeft())
        self._tasks.post(DraftAttached())

    async def _new_draft(self, source: str | None) -> Drafter | None:
        """A slot of that source (None: of the controller's choice); None if there is none, or the answer is over."""
        began_s = self._clock()
        try:
            draft = await self._placement.attach_draft(self._call, source)
        except Exception as error:
            if self._ends_the_answer(error):
                raise
            log.info("session %s gets no draft: %r", self._call.session, error)
            return None
        if self._is_over:
            await draft.release()
            return None
        self._watch(draft, "draft", began_s)
        return draft

    def _ends_the_answer(self, error: Exception, *, of_target: bool = False) -> bool:
        """Whether to raise an error of a slot. A draft that cannot take the request is left out everywhere.

        Its context may be shorter than the answer's, and its embedding smaller than the target's.
        """
        return not self._settings.replaces_lost and (of_target or not isinstance(error, InvalidRequest))

    def _attach_draft_later(self) -> None:
        def attach() -> None:
            if not self._is_over:
                self._tasks.spawn(self._attach_draft())

        self._tasks.call_later(self._settings.reattach_s, attach)

    def adopt_draft(self) -> None:
        """Switch to the next draft, when the session forgets the old one's cache."""
        before, self.draft, self._next_draft = self.draft, self._next_draft, None
        if before is not None:
            self._release(before)

    def _watch(self, slot: Drafter | Verifier, role: str, began_s: float) -> None:
        """Report a leased slot as granted, and notice when it is lost."""
        if is_leased(slot):
            now_s = self._clock()
            self._tell(SlotGranted(self._call.session, role, now_s - began_s, now_s))
        slot.lost.add_done_callback(partial(self._lease_ended, slot))

    def _lease_ended(self, slot: Drafter | Verifier, lost: Any) -> None:
        if not lost.cancelled():  # a release cancels it
            self.lose(slot, str(lost.result()))

    def lose(self, slot: Drafter | Verifier, error: Exception | str) -> None:
        """Handle the loss of a slot; further reports of the same loss do nothing."""
        if slot is not self.target and slot is not self.draft:
            return
        if isinstance(error, Exception) and self._ends_the_answer(error, of_target=slot is self.target):
            raise error
        role = "target" if slot is self.target else "draft"
        if slot is self.target:
            self.target = None
            log.warning("session %s lost its target: %s", self._call.session, error)
            self._num_target_losses, self._target_loss = self._num_target_losses + 1, str(error)
            if self._num_target_losses <= self._settings.max_target_losses:
                self._tasks.post(TargetLost())
            else:
                why = f"{error} (for the {self._num_target_losses}th time)"
                self._tasks.post(Fail(WorkerLost("target", why)))
        elif self._next_draft is not None:
            return  # it is being exchanged already (``Runner.lose_draft`` ends a round's wait for its block)
        elif isinstance(error, InvalidRequest):  # it cannot take such requests, now or later
            self.draft = None
            log.info("session %s gets no draft: %s", self._call.session, error)
            self._tasks.post(DraftLost())
            return self._release(slot)
        else:
            self.draft = None
            log.warning("session %s lost its draft: %s", self._call.session, error)
            self._tasks.post(DraftLost())
            self._attach_draft_later()
        if is_leased(slot):
            self._tell(SlotLost(role))
        self._release(slot)

    def _release(self, slot: Drafter | Verifier) -> None:
        self._tasks.spawn(slot.release(), to_its_end=True)

    def give_back(self) -> None:
        """Release all slots. ``_is_over`` ends tasks that miss their cancellation (some libraries swallow it)."""
        self._is_over = True
        for slot in (self.target, self.draft, self._next_draft):
            if slot is not None:
                self._release(slot)
        self.target = self.draft = self._next_draft = None
