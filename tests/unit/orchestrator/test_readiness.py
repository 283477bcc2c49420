"""The prober keeps probing both tiers, but leaves drafts alone that may scale to zero."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from adasd.rounds import OpenCall
from services.gateway.backend import Readiness
from services.orchestrator import readiness
from services.orchestrator.placement import DRAFT_LEASE_TIMEOUT_S
from services.orchestrator.readiness import Prober, Readings
from tests.unit.orchestrator.fakes import FakePlacement, Faults


async def probed(may_sleep: bool, monkeypatch: pytest.MonkeyPatch) -> FakePlacement:
    """A placement after many probes."""
    monkeypatch.setattr(readiness, "RUNNING_S", 0.001)
    monkeypatch.setattr(readiness, "RUNNING_DRAFT_S", 0.001)
    placement = FakePlacement((0,) * 8, Faults(draft_wrong=0.0))
    readings = Readings(has_draft=True)
    probing = asyncio.create_task(Prober(placement, readings, may_sleep=may_sleep).run())
    async with asyncio.timeout(10.0):
        least_drafts = 1 if may_sleep else 5
        while placement.num_attached["target"] < 5 or placement.num_attached["draft"] < least_drafts:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    probing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await probing
    assert readings.readiness().ready
    assert placement.open_slots == []
    return placement


async def test_both_tiers_are_probed_again_and_again(monkeypatch: pytest.MonkeyPatch):
    assert (await probed(False, monkeypatch)).num_attached["draft"] >= 4


async def test_drafts_that_may_sleep_are_not_woken_by_probes(monkeypatch: pytest.MonkeyPatch):
    assert (await probed(True, monkeypatch)).num_attached["draft"] == 1


async def test_probes_of_two_orchestrators_never_share_a_name(monkeypatch: pytest.MonkeyPatch):
    """A worker ends a lease when another one of the same name comes."""
    names = []
    for _ in range(2):
        placement = FakePlacement((0,) * 8)
        attach = placement.attach_target

        async def noted(call: OpenCall, attach=attach):
            names.append(call.session)
            return await attach(call)

        monkeypatch.setattr(placement, "attach_target", noted)
        await Prober(placement, Readings(has_draft=False)).probe_target()
    assert len(set(names)) == 2


@pytest.mark.parametrize(
    ("holds_draft", "degraded"),
    [(True, False), (False, True)],
    ids=["full", "gone"],
)
async def test_drafts_without_a_free_slot_are_full_if_one_is_in_use_and_gone_otherwise(
    holds_draft: bool, degraded: bool
):
    placement, readings = FakePlacement((0,) * 8, Faults(draft_wrong=0.0)), Readings(has_draft=True)
    prober = Prober(placement, readings, holds_draft=lambda: holds_draft)
    readings.target = await prober.read("target", prober.probe_target, readings.target)
    readings.draft = await prober.read("draft", prober.probe_drafts, readings.draft)
    assert readings.readiness() == Readiness(True, degraded=False, reasons=())
    placement.faults = Faults(no_draft_slots=True)
    readings.draft = await prober.read("draft", prober.probe_drafts, readings.draft)
    assert readings.readiness().degraded is degraded


async def test_a_full_disk_degrades_and_says_so_until_there_is_space(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(readiness, "DISK_S", 0.001)
    says: list[str | None] = ["the disk is full"]
    readings = Readings(has_draft=False, target=None)
    prober = Prober(FakePlacement((0,) * 8), readings, shortage=lambda: says[0])
    watching = asyncio.create_task(prober.watch_disk())
    async with asyncio.timeout(10.0):
        while not readings.readiness().degraded:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        assert readings.readiness() == Readiness(True, degraded=True, reasons=("the disk is full",))
        says[0] = None
        while readings.readiness().degraded:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def test_drafts_that_hang_are_gone_in_seconds(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(readiness, "DRAFT_PROBE_S", 0.01)
    placement, readings = FakePlacement((0,) * 8, Faults(draft_wrong=0.0)), Readings(has_draft=True)
    prober = Prober(placement, readings)
    assert await prober.read("draft", prober.probe_drafts, None) is None
    hangs = asyncio.Event()
    monkeypatch.setattr(placement, "dawdle", lambda role: hangs.wait())
    assert "no draft answered within" in str(await prober.read("draft", prober.probe_drafts, None))


async def test_a_full_target_does_not_keep_the_drafts_reading_back(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(readiness, "RUNNING_DRAFT_S", 0.001)
    placement, readings = FakePlacement((0,) * 8, Faults(draft_wrong=0.0)), Readings(has_draft=True)
    waits = asyncio.Event()

    async def attach_target(call: OpenCall) -> None:
        await waits.wait()

    monkeypatch.setattr(placement, "attach_target", attach_target)
    probing = asyncio.create_task(Prober(placement, readings).run())
    async with asyncio.timeout(10.0):
        while placement.num_attached["draft"] < 5:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    probing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await probing


def test_the_word_about_lost_drafts_comes_within_five_seconds():
    """A pause between probes, then a probe, which begins with a lease."""
    assert readiness.RUNNING_DRAFT_S + max(readiness.DRAFT_PROBE_S, DRAFT_LEASE_TIMEOUT_S) < 5.0
