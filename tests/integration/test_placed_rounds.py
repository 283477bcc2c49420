"""Leases, lines and a real worker: the first call travels with the opening, and refusals keep their error class."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import pytest

from adasd.config import EngineConfig
from adasd.errors import AdasdError, DeviceFailure, InvalidRequest, Overloaded, UnknownSession, WorkerLost
from adasd.requests import Grammar, GrammarKind
from adasd.rounds import OpenCall, SamplingTransform, VerifyCall
from load_tests.latency.counting_engine import CountingEngine
from services.config import TierConfig
from services.orchestrator.placement import LeasedSlot, LeasePlacement, Tier
from services.transport.frames import Opened
from services.transport.link_pool import LinkPool
from services.transport.options import LINK_FORM
from services.worker.link_end import LinkEnd
from services.worker.worker import Worker
from tests.leaks import nothing_runs
from tests.patience import soon

LENGTH = 64


class Stream:
    """A worker's lease as a Serve handle streams it."""

    def __init__(self, lease: AsyncGenerator[dict[str, Any], None]) -> None:
        self._lease = lease
        self._reading: asyncio.Task[dict[str, Any]] | None = None
        self._closing: asyncio.Task[None] | None = None

    async def __anext__(self) -> dict[str, Any]:
        self._reading = asyncio.ensure_future(anext(self._lease))
        return await self._reading

    def cancel(self) -> None:
        self._closing = self._closing or asyncio.ensure_future(self._close())

    async def _close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        await self._lease.aclose()


class Rig:
    """A target worker as Serve makes it, and a placement that leases from it. Openings wait for ``opened``."""

    async def start(self, monkeypatch: pytest.MonkeyPatch, num_slots: int) -> None:
        self.num_slots, self.num_grants = num_slots, 0
        self.engine, self.may_open = CountingEngine(num_slots=num_slots), asyncio.Event()
        self.may_open.set()
        self.refusal: AdasdError | None = None
        self.worker = Worker.__new__(Worker)
        await self.worker.__init__(  # type: ignore[misc]
            "target", TierConfig(EngineConfig("counting")), make_engine=lambda: self.engine
        )
        self.pool = LinkPool()
        tier = Tier("target", self.lease, 10.0)
        drafts = {"model": replace(tier, role="draft")}
        self.placement = LeasePlacement(tier, drafts, self.pool, admission_timeout_s=20.0)
        engine_open = self.engine.open

        def open(call: OpenCall) -> None:
            if self.refusal is not None:
                raise self.refusal
            engine_open(call)

        monkeypatch.setattr(self.engine, "open", open)
        reply = LinkEnd.reply

        def reply_late(link: LinkEnd, number: int, answer: object) -> None:
            """Openings are answered once they may be."""
            if isinstance(answer, Opened) and not self.may_open.is_set():
                task = asyncio.ensure_future(self.may_open.wait())
                task.add_done_callback(lambda _: reply(link, number, answer))
            else:
                reply(link, number, answer)  # type: ignore[arg-type]

        monkeypatch.setattr(LinkEnd, "reply", reply_late)

    def lease(self, session: str) -> Stream:
        self.num_grants += 1
        return Stream(self.worker.lease(session))  # type: ignore[arg-type]

    async def slot(self, transform: SamplingTransform | None = None) -> LeasedSlot:
        return await self.placement.attach_target(OpenCall("s", transform or SamplingTransform(), LENGTH))

    async def stop(self) -> None:
        self.may_open.set()
        self.placement.close()
        await soon(lambda: self.engine.num_free_slots == self.num_slots and len(self.worker._leases) == 0)
        await self.pool.close()
        await self.worker.shutdown()
        assert await nothing_runs(), asyncio.all_tasks()


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest):
    """Too few slots for a lease to be kept, or ``param``. At the end all are free and no task is left."""
    rig = Rig()
    await rig.start(monkeypatch, getattr(request, "param", 2))
    yield rig
    await rig.stop()


async def test_each_grant_of_a_target_is_told_and_none_of_a_draft(rig):
    told = []
    rig.placement.on_target = told.append
    for slot in (
        await rig.slot(),
        await rig.placement.attach_draft(OpenCall("d", SamplingTransform(), LENGTH)),
    ):
        await slot.release()
    assert [(grant["max_context"], grant["verdict_backend"]) for grant in told] == [(4096, "fake")]


def asked() -> VerifyCall:
    return VerifyCall("s", 1, 0, feed=(5,))


async def test_the_first_verdict_does_not_wait_for_the_openings_answer(rig: Rig):
    rig.may_open.clear()
    slot = await rig.slot()
    verdict = await slot.verify(asked())
    assert (verdict.num_accepted, verdict.next_token) == (0, 6)
    rig.may_open.set()
    await slot.release()


@pytest.mark.parametrize("turns", range(6), ids="after {} turns of the loop".format)
async def test_a_slot_may_be_released_while_it_is_being_opened(rig: Rig, turns: int):
    """Also before the stream has begun: a line that waited for its writes then would never be closed."""
    rig.may_open.clear()
    slot = await rig.slot()
    for _ in range(turns):
        await asyncio.sleep(0)
    await slot.release()


@pytest.mark.parametrize("refusal", [Overloaded("no slot"), InvalidRequest("too long", "prompt")])
async def test_a_refused_opening_is_what_the_first_call_raises(rig: Rig, refusal: AdasdError):
    rig.refusal = refusal
    slot = await rig.slot()
    with pytest.raises(type(refusal), match=str(refusal)):
        await slot.verify(asked())
    await slot.release()


async def test_a_slot_that_was_opened_and_lost_says_so_itself(rig: Rig):
    slot = await rig.slot()
    await slot.verify(asked())
    rig.engine.close(slot.lease.lease_id)
    with pytest.raises(UnknownSession):
        await slot.verify(VerifyCall("s", 2, 1, feed=(6,)))
    await slot.release()


async def test_a_grammar_is_compiled_before_anything_is_asked(rig: Rig):
    rig.may_open.clear()
    attaching = asyncio.create_task(rig.slot(SamplingTransform(grammar=Grammar(GrammarKind.REGEX, "a+"))))
    await soon(lambda: rig.engine.num_free_slots == 1)
    await asyncio.sleep(0.01)
    assert not attaching.done()
    rig.may_open.set()
    await (await attaching).release()


@pytest.mark.parametrize("refusal", [DeviceFailure("an illegal address"), UnknownSession("s")])
async def test_with_a_grammar_too_another_replica_is_tried_where_one_fails(
    rig: Rig, refusal: AdasdError, monkeypatch: pytest.MonkeyPatch
):
    """Its opening is awaited, so what it says does not come with the first verdict."""
    engine_open, refusals = rig.engine.open, [refusal]

    def open(call: OpenCall) -> None:
        if refusals:
            raise refusals.pop()
        engine_open(call)

    monkeypatch.setattr(rig.engine, "open", open)
    slot = await rig.slot(SamplingTransform(grammar=Grammar(GrammarKind.REGEX, "a+")))
    assert rig.num_grants == 2
    await slot.release()


async def test_a_replica_of_another_form_is_refused_and_another_one_tried(rig: Rig):
    """During a rolling upgrade."""
    rig.worker._grant = {name: value for name, value in rig.worker._grant.items() if name != "link_form"}
    with pytest.raises(WorkerLost, match="it speaks form 1 of the protocol, this orchestrator 2"):
        await rig.placement.attach_draft(OpenCall("s", SamplingTransform(), LENGTH))
    attaching = asyncio.create_task(rig.slot())
    await soon(lambda: rig.engine.num_free_slots == 2)
    assert not attaching.done()  # it waits for another replica
    rig.worker._grant["link_form"] = LINK_FORM
    await (await attaching).release()


async def test_a_draft_slot_is_held_until_it_is_released_or_lost(rig: Rig):
    call = OpenCall("s", SamplingTransform(), LENGTH)
    kept, dies = await rig.placement.attach_draft(call), await rig.placement.attach_draft(call)
    await kept.release()
    assert rig.placement.holds_draft
    dies.lease._stream.cancel()  # as Serve ends it when the replica dies
    await soon(lambda: not rig.placement.holds_draft)
    await dies.release()


@pytest.mark.parametrize("rig", [16], indirect=True, ids="{} slots".format)
async def test_the_next_session_needs_no_grant_and_begins_with_an_empty_slot(rig: Rig):
    for number in range(3):
        slot = await rig.placement.attach_target(OpenCall(f"s{number}", SamplingTransform(), LENGTH))
        first = await slot.verify(asked())
        assert (first.base_len, first.next_token) == (1, 6)
        assert first.session.startswith(f"s{number}.")  # also where the lease is that of s0
        await slot.verify(VerifyCall("s", 2, 1, feed=(6,)))
        await slot.release()
    assert rig.num_grants == 1
    assert (rig.engine.num_free_slots, len(rig.worker._leases)) == (16, 1)


@pytest.mark.parametrize("rig", [16], indirect=True, ids="{} slots".format)
async def test_a_lease_is_kept_although_the_last_verdict_was_still_on_its_way(rig: Rig):
    slot = await rig.slot()
    await slot.verify(asked())
    asking = asyncio.create_task(slot.verify(VerifyCall("s", 2, 1, feed=(6,))))
    await asyncio.sleep(0)
    await slot.release()
    await asyncio.gather(asking, return_exceptions=True)
    again = await rig.slot()
    assert (await again.verify(asked())).next_token == 6
    await again.release()
    assert rig.num_grants == 1


@pytest.mark.parametrize("rig", [16], indirect=True, ids="{} slots".format)
async def test_a_lease_whose_opening_was_refused_is_not_used_again(rig: Rig):
    rig.refusal = Overloaded("no slot")
    slot = await rig.slot()
    with pytest.raises(Overloaded):
        await slot.verify(asked())
    await slot.release()
    rig.refusal = None
    await (await rig.slot()).release()
    assert rig.num_grants == 2
