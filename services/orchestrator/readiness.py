"""Readiness by probing: a lease, a slot and one token on each tier, repeatedly.

A full tier is alive: its last reading stands. A draft tier without a free slot counts as full only while this
orchestrator itself holds a draft slot; otherwise the drafts are gone, and the service reports it within 5 s.
A full disk degrades the service, too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from uuid import uuid4

from adasd.errors import AdasdError, Overloaded
from adasd.ports import Clock, Drafter, Placement
from adasd.rounds import DraftCall, OpenCall, SamplingTransform, StopRule, VerifyCall
from services.gateway.backend import Readiness

log = logging.getLogger(__name__)

STARTING_S = 0.3
"""Seconds between probes until everything has answered once."""
RUNNING_S = 5.0
"""Seconds between probes of the target afterwards."""
RUNNING_DRAFT_S = 1.5
"""Seconds between probes of the drafts afterwards."""
DRAFT_PROBE_S = 3.0
"""Timeout of a probe of drafts that have answered before."""
DISK_S = 2.0
"""Seconds between looks at the disk."""
DRAFT_GRACE_S = 60.0
"""Time for the first answer of a draft after the target serves; then the service is ready without a draft."""
GREEDY = SamplingTransform(temperature=0.0)


@dataclass(slots=True)
class Readings:
    """The newest reading per tier: None is healthy, a text says what is wrong."""

    has_draft: bool
    target: str | None = "the target has not answered its warm-up yet"
    draft: str | None = "the draft has not answered its warm-up yet"
    disk: str | None = None
    answered: set[str] = field(default_factory=set)  # tiers that have answered at least once
    draft_overdue: bool = False  # the target has served for DRAFT_GRACE_S without the draft's first answer

    def readiness(self) -> Readiness:
        """Ready once both tiers have answered a warm-up; degraded by a draft lost later (or overdue) or a full disk."""
        readings = (self.target, self.draft if self.has_draft else None, self.disk)
        reasons = tuple(why for why in readings if why)
        waits_for_draft = self.has_draft and "draft" not in self.answered and not self.draft_overdue
        ready = self.target is None and not waits_for_draft
        return Readiness(ready, degraded=ready and bool(reasons), reasons=reasons)


class Prober:
    """Keeps ``readings`` current. ``run`` ends only by cancellation.

    If drafts ``may_sleep`` (scale to zero), none is probed after its first answer: a probe would wake it.
    """

    def __init__(
        self,
        placement: Placement,
        readings: Readings,
        clock: Clock = time.monotonic,
        may_sleep: bool = False,
        holds_draft: Callable[[], bool] = lambda: False,
        shortage: Callable[[], str | None] = lambda: None,
    ) -> None:
        """``holds_draft``: whether a session of this orchestrator has a draft slot whose replica is alive.

        ``shortage``: what to say about a full disk; None if it is not full.
        """
        self.placement, self.readings, self.clock, self.may_sleep = placement, readings, clock, may_sleep
        self.holds_draft, self.shortage = holds_draft, shortage
        self.target_since_s: float | None = None

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:  # a full target must not delay the drafts' reading
            tasks.create_task(self.watch_target())
            tasks.create_task(self.watch_disk())
            if self.readings.has_draft:
                tasks.create_task(self.watch_draft())

    async def watch_target(self) -> None:
        while True:
            self.readings.target = await self.read("target", self.probe_target, self.readings.target)
            await asyncio.sleep(RUNNING_S if self.readings.target is None else STARTING_S)

    async def watch_disk(self) -> None:
        while True:
            self.readings.disk = await asyncio.to_thread(self.shortage)
            await asyncio.sleep(DISK_S)

    async def watch_draft(self) -> None:
        while not (self.may_sleep and "draft" in self.readings.answered):
            self.readings.draft = await self.read("draft", self.probe_drafts, self.readings.draft)
            self.readings.draft_overdue = self.waited_long_enough()
            await asyncio.sleep(RUNNING_DRAFT_S if self.readings.draft is None else STARTING_S)

    def waited_long_enough(self) -> bool:
        """Whether the target has served for DRAFT_GRACE_S without an answer from any draft."""
        if self.readings.target is not None:
            self.target_since_s = None
            return False
        if self.target_since_s is None:
            self.target_since_s = self.clock()
        return self.clock() - self.target_since_s > DRAFT_GRACE_S

    async def read(self, role: str, probe: Callable[[], Awaitable[None]], before: str | None) -> str | None:
        try:
            await probe()
        except Overloaded as error:
            if role not in self.readings.answered:
                return f"the {role} cannot serve yet: {error}"
            return before if role == "target" or self.holds_draft() else f"the {role} cannot serve: {error}"
        except AdasdError as error:
            return f"the {role} cannot serve: {error}"
        except Exception as error:  # any error: the next probe follows anyway
            log.exception("the %s's probe failed for an unforeseen reason", role)
            return f"the {role} cannot serve: {type(error).__name__}: {error}"
        self.readings.answered.add(role)
        return None

    async def probe_target(self) -> None:
        name = f"probe-{uuid4().hex}"
        slot = await self.placement.attach_target(OpenCall(name, GREEDY, max_len=2))
        try:
            await slot.verify(VerifyCall(name, 1, 0, feed=(0,)))
        finally:
            await release(slot)

    async def probe_drafts(self) -> None:
        """Probe every draft tier at once; raises the first error in their order, Overloaded if it takes too long."""
        probes = [self.probe_draft(tier) for tier in self.placement.draft_names]
        try:
            async with asyncio.timeout(DRAFT_PROBE_S if "draft" in self.readings.answered else None):
                results = await asyncio.gather(*probes, return_exceptions=True)
        except TimeoutError:
            raise Overloaded(f"no draft answered within {DRAFT_PROBE_S:g} s") from None
        for result in results:
            if result is not None:
                raise result

    async def probe_draft(self, tier: str) -> None:
        name = f"probe-{uuid4().hex}"
        slot = await self.placement.attach_draft(OpenCall(name, GREEDY, max_len=2), tier)
        try:
            await slot.draft(DraftCall(name, 1, 0, (0,), StopRule(max_tokens=1)))
        finally:
            await release(slot)


async def release(slot: Drafter) -> None:
    """Give the slot back even while the prober is being cancelled."""
    await asyncio.shield(slot.release())
