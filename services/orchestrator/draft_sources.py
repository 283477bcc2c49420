"""Where one answer's blocks come from: the source that it asks for, or the one that its controller chooses.

Look-ups run right here; models are leased from the tiers below. A source that cannot be had or is lost is
reported to the controller, which may name another one for the next attempt.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from adasd.control.controller import SessionController
from adasd.control.draft_sources import LOOKUPS, SELF
from adasd.drafters.lookup import Lookup
from adasd.drafters.lookups import Lookups, nothing_drafted
from adasd.errors import WorkerLost
from adasd.rounds import DraftBlock, DraftCall, OpenCall, Verdict, VerifyCall
from adasd.session.runner import Attachment, Placement


class LookupSlot:
    """A look-up as the runner holds it (adasd.session.runner.Attachment). It is never lost."""

    def __init__(self, line: Lookup) -> None:
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._line, self._turn = line, asyncio.Lock()

    async def draft(self, call: DraftCall) -> DraftBlock:
        """A long text is read in pieces, between which the loop serves others."""
        async with self._turn:
            began_s = time.perf_counter()
            for _ in self._line.read(call):
                await asyncio.sleep(0)
            return self._line.answer(call, began_s)

    async def verify(self, call: VerifyCall) -> Verdict:
        raise AssertionError("a look-up judges nothing")

    async def release(self) -> None:
        self.lost.cancel()


class SelfSlot:
    """The target as its own draft: draft calls on the slot of its verdicts, whichever target holds it now."""

    def __init__(self, target: Callable[[], Attachment | None]) -> None:
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._target = target

    async def draft(self, call: DraftCall) -> DraftBlock:
        """Reading alone needs nothing of the target, which has read it all for its verdicts."""
        if not call.rule.max_tokens:
            return nothing_drafted(call)
        target = self._target()
        if target is None:
            raise WorkerLost("target", "the session has none at the moment")
        return await target.draft(call)

    async def verify(self, call: VerifyCall) -> Verdict:
        raise AssertionError("verdicts go to the target's own attachment")

    async def release(self) -> None:
        self.lost.cancel()


class SourcedPlacement:
    """The placement of one request (adasd.session.runner.Placement)."""

    def __init__(self, inner: Placement, lookups: Lookups, controller: SessionController) -> None:
        self._inner, self._lookups, self._controller = inner, lookups, controller
        self._next, self._attached = controller.source, ""
        self._target: Attachment | None = None

    @property
    def draft_names(self) -> tuple[str, ...]:
        return self._inner.draft_names

    async def attach_target(self, call: OpenCall) -> Attachment:
        self._target = None
        self._target = await self._inner.attach_target(call)
        return self._target

    async def attach_draft(self, call: OpenCall, name: str | None = None) -> Attachment:
        """The source of that name; without one, that which the controller wants."""
        if name is None and self._attached:  # asked for again: what was attached is gone
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

    async def _attach(self, source: str, call: OpenCall) -> Attachment:
        if source in LOOKUPS:
            return LookupSlot(self._lookups.line(source, alone=self._controller.alone))
        if source == SELF:
            return SelfSlot(lambda: self._target)
        return await self._inner.attach_draft(call, source)
