"""The draft source of one answer: the one that the request names, or the controller's choice.

Look-ups run in this process; models are attached through the inner placement. If a source cannot be attached or is
lost, the controller is told and may name another one for the next attempt.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future

from adasd.control.controller import SessionController
from adasd.control.draft_sources import LOOKUPS, SELF
from adasd.drafters.lookup import Lookup
from adasd.drafters.lookups import Lookups, nothing_drafted
from adasd.drafters.predicted import Prediction
from adasd.errors import WorkerLost
from adasd.ports import Drafter, Placement, Verifier
from adasd.rounds import DraftBlock, DraftCall, OpenCall


class LookupDrafter:
    """A look-up as a Drafter. It is never lost."""

    def __init__(self, lookup: Lookup) -> None:
        self.lost: Future[str] = Future()
        self._lookup, self._turn = lookup, asyncio.Lock()

    async def draft(self, call: DraftCall) -> DraftBlock:
        """A long text is indexed in pieces, so that the event loop is not blocked."""
        async with self._turn:
            began_s = time.perf_counter()
            for _ in self._lookup.read(call):
                await asyncio.sleep(0)
            return self._lookup.answer(call, began_s)

    async def release(self) -> None:
        self.lost.cancel()


class SelfDrafter:
    """The target's own first layers as a Drafter: draft calls go to the session's current target slot."""

    def __init__(self, target: Callable[[], Verifier | None]) -> None:
        self.lost: Future[str] = Future()
        self._target = target

    async def draft(self, call: DraftCall) -> DraftBlock:
        """A call that drafts nothing is not sent: the target reads the text for its verdicts anyway."""
        if not call.rule.max_tokens:
            return nothing_drafted(call)
        target = self._target()
        if target is None:
            raise WorkerLost("target", "the session has none at the moment")
        return await target.draft(call)

    async def release(self) -> None:
        self.lost.cancel()


def is_leased(slot: Drafter | Verifier) -> bool:
    """Whether the slot is on a worker."""
    return not isinstance(slot, LookupDrafter | SelfDrafter)


class DraftSources:
    """The Placement of one answer, with drafts of any source."""

    def __init__(
        self,
        inner: Placement,
        lookups: Lookups,
        controller: SessionController,
        prediction: Prediction | None = None,
    ) -> None:
        self.inner, self._lookups, self._controller = inner, lookups, controller
        self._prediction = prediction
        self._next, self._attached = controller.source, ""
        self._target: Verifier | None = None

    @property
    def draft_names(self) -> tuple[str, ...]:
        return self.inner.draft_names

    async def attach_target(self, call: OpenCall) -> Verifier:
        self._target = None
        self._target = await self.inner.attach_target(call)
        return self._target

    async def attach_draft(self, call: OpenCall, name: str | None = None) -> Drafter:
        """The source of that name; None: the controller's choice."""
        if name is None and self._attached:  # called again, so the attached source was lost
            self._fail(self._attached)
        source = name or self._next
        began_s = time.perf_counter()
        try:
            slot = await self._attach(source, call)
        except Exception:
            self._fail(source)
            raise
        self._controller.attached(source, 1e3 * (time.perf_counter() - began_s))
        self._controller.use(source)
        self._attached = source
        return slot

    def _fail(self, source: str) -> None:
        self._attached, self._next = "", self._controller.source_failed(source)

    async def _attach(self, source: str, call: OpenCall) -> Drafter:
        if source in LOOKUPS:
            alone = self._controller.isolated
            return LookupDrafter(self._lookups.lookup(source, alone=alone, prediction=self._prediction))
        if source == SELF:
            return SelfDrafter(lambda: self._target)
        return await self.inner.attach_draft(call, source)
