"""The prober asks both tiers again and again, but lets drafts sleep where they may."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from services.orchestrator import readiness
from services.orchestrator.readiness import Prober, Readings
from tests.unit.orchestrator.fakes import FakePlacement, Faults


async def probed(may_sleep: bool, monkeypatch: pytest.MonkeyPatch) -> FakePlacement:
    """A placement after many probes."""
    monkeypatch.setattr(readiness, "RUNNING_S", 0.001)
    placement = FakePlacement((0,) * 8, Faults(draft_wrong=0.0))
    readings = Readings(has_draft=True)
    probing = asyncio.create_task(Prober(placement, readings, may_sleep=may_sleep).run())
    async with asyncio.timeout(10.0):
        while placement.num_attached["target"] < 5:  # noqa: ASYNC110
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
