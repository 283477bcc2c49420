"""The end of an answer: its reader has all of it before slots are given back, and closing it leaves nothing behind."""

from __future__ import annotations

import asyncio

import pytest

from adasd.requests import GenerationRequest, SamplingParams
from adasd.results import Chunk, Complete
from tests.unit.orchestrator.fakes import FakeSlot, ids
from tests.unit.orchestrator.test_admission import PROMPT, TEXT, backend, placement


async def test_the_last_event_comes_before_slots_are_given_back_and_closing_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
):
    may_give_back, release = asyncio.Event(), FakeSlot.release

    async def slow_release(slot: FakeSlot) -> None:
        await may_give_back.wait()
        await release(slot)

    monkeypatch.setattr(FakeSlot, "release", slow_release)
    slots = placement(num_slots=1)
    server = backend(slots, max_queued=0)
    remembered: list[list[int]] = []
    monkeypatch.setattr(server.lookups, "remember", remembered.append)
    events = server.generate(GenerationRequest("r", ids(PROMPT), SamplingParams(200, temperature=0.0)))
    text = ""
    async for event in events:
        if isinstance(event, Complete):
            break
        assert isinstance(event, Chunk)
        text += event.text
    assert text == TEXT
    assert len(slots.open_slots) == 2
    closing = asyncio.create_task(events.aclose())
    await asyncio.sleep(0.01)
    assert server.num_running == 0  # another one is admitted
    assert not closing.done()
    may_give_back.set()
    await closing
    assert [len(answer) for answer in remembered] == [len(TEXT) + 1]
    assert slots.open_slots == []
    assert len(asyncio.all_tasks()) == 1
