"""A worker whose cache holds fewer sessions than Serve sends it."""

from __future__ import annotations

import asyncio

import pytest

from adasd.config import EngineConfig
from adasd.engine.translated import TranslatedDraft
from adasd.errors import DeviceFailure, Overloaded
from adasd.rounds import OpenCall, SamplingTransform, VerifyCall
from load_tests.latency.counting_engine import CountingEngine
from services.config import TierConfig
from services.worker.worker import Worker
from tests.unit.engine.models import engine

CONTEXT = 64
BYTES_PER_SLOT = 2 * 2 * 2 * 8 * 4 * CONTEXT  # layers, keys and values, heads, head dimension, float32
SENT, HELD = 8, 2


async def made(lease_timeout_s: float) -> Worker:
    """``cache_bytes`` has room for 2 sessions, Serve sends 8."""
    worker = Worker.__new__(Worker)
    await worker.__init__(  # type: ignore[misc]  # as Serve does
        "target",
        TierConfig(EngineConfig("tiny", num_slots=SENT)),
        lease_timeout_s=lease_timeout_s,
        make_engine=lambda: engine(
            "llama", max_context=CONTEXT, num_slots=SENT, cache_bytes=HELD * BYTES_PER_SLOT
        ),
    )
    return worker


async def test_a_draft_of_another_vocabulary_starts():
    """It can give no verdict, so none is asked for while it warms up."""
    worker = Worker.__new__(Worker)
    await worker.__init__(  # type: ignore[misc]  # as Serve does
        "draft",
        TierConfig(EngineConfig("tiny", num_slots=SENT)),
        make_engine=lambda: TranslatedDraft(
            engine("llama", max_context=CONTEXT, num_slots=SENT),
            lambda token: (token,),
            lambda token: token,
            8,
        ),
    )
    try:
        assert (await worker.stats())["num_leases"] == 0
    finally:
        await worker.shutdown()


async def test_as_many_leases_are_granted_as_slots_fit_and_the_others_wait_their_turn():
    worker = await made(lease_timeout_s=10.0)
    try:
        most = 0

        async def session(name: str) -> int:
            nonlocal most
            lease = worker.lease(name)
            grant = await anext(lease)
            most = max(most, (await worker.stats())["num_leases"])
            await asyncio.sleep(0.01)
            await lease.aclose()
            return int(grant["num_slots"])

        told = await asyncio.gather(*(session(str(i)) for i in range(SENT)))
        assert told == [HELD] * SENT
        assert most == HELD
        assert worker.record_autoscaling_stats()["slots"] == HELD
        assert (await worker.stats())["num_leases"] == 0
    finally:
        await worker.shutdown()


async def test_who_waits_too_long_is_refused_alone_and_holds_nothing():
    worker = await made(lease_timeout_s=0.02)
    try:
        leases = [worker.lease(str(i)) for i in range(HELD)]
        for lease in leases:
            await anext(lease)
        with pytest.raises(Overloaded, match="all 2 slots of this replica are leased"):
            await anext(worker.lease("late"))
        assert (await worker.stats())["num_leases"] == HELD
        await leases[0].aclose()
        again = worker.lease("late")
        assert (await anext(again))["num_slots"] == HELD
        await again.aclose()
        await leases[1].aclose()
        assert (await worker.stats())["num_leases"] == 0
    finally:
        await worker.shutdown()


async def test_a_replica_whose_engine_has_ended_leases_nothing(monkeypatch: pytest.MonkeyPatch):
    """Until Serve replaces it, it is the one with the fewest requests, so the router would send all of them there."""
    dying, worker = CountingEngine(), Worker.__new__(Worker)
    await worker.__init__(  # type: ignore[misc]  # as Serve does
        "target", TierConfig(EngineConfig("counting")), make_engine=lambda: dying
    )
    try:
        lease = worker.lease("a")
        await anext(lease)

        def step() -> list[object]:
            raise RuntimeError("an illegal memory access")

        monkeypatch.setattr(dying, "step", step)
        await worker._host.open(OpenCall("a", SamplingTransform(), CONTEXT))
        with pytest.raises(DeviceFailure):
            await worker._host.submit(VerifyCall("a", 1, 0, (5,)))
        with pytest.raises(DeviceFailure, match="illegal memory access"):
            await anext(worker.lease("b"))
        await lease.aclose()
        assert len(worker._leases) == 0
    finally:
        await worker.shutdown()
