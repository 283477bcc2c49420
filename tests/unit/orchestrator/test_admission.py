"""Admission through the real backend: which requests wait, which are refused at once, what waiting ones hold."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from adasd.config import EngineConfig
from adasd.errors import ContextTooLong, Overloaded
from adasd.requests import GenerationRequest, SamplingParams
from adasd.results import Chunk, Complete
from adasd.rounds import OpenCall
from adasd.text.tokenizer import Tokenizer
from services.config import ServeConfig, TierConfig
from services.orchestrator.admission import GRACE_S
from services.orchestrator.backend import OrchestratorBackend
from services.orchestrator.readiness import Readings
from tests.patience import soon
from tests.unit.orchestrator.fakes import EOS, FakePlacement, FakeSlot, Faults, decode, ids

PROMPT, TEXT = "say: ", "something rather long, so that it takes a while to say"


@dataclass
class Letters:
    """A tokenizer whose tokens are letters."""

    eos_ids: frozenset[int] = frozenset({EOS})
    decode = staticmethod(decode)


@dataclass
class FewSlots(FakePlacement):
    """Targets grant ``num_slots`` slots, first come, first served, as a Serve handle does."""

    num_slots: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        self.free = asyncio.Semaphore(self.num_slots)
        self.num_waiting = 0

    async def attach_target(self, call: OpenCall) -> FakeSlot:
        self.num_waiting += 1
        try:
            await self.free.acquire()
        finally:
            self.num_waiting -= 1
        slot = await super().attach_target(call)
        slot.lost.add_done_callback(lambda _: self.free.release())  # a release also completes ``lost``
        return slot


def placement(num_slots: int, **faults: float) -> FewSlots:
    truth = (*ids(PROMPT + TEXT), EOS, *ids("x" * 40))
    return FewSlots(truth, Faults(delay_s=0.01, **faults), num_slots=num_slots)  # type: ignore[arg-type]


def backend(
    slots: FakePlacement, max_queued: int, guaranteed: int = 1, max_replicas: int = 4
) -> OrchestratorBackend:
    """``guaranteed``: slots that the configuration promises, those of one replica."""
    tier = TierConfig(EngineConfig("a model", num_slots=guaranteed), max_replicas=max_replicas)
    config = ServeConfig(tier, tier, max_queued_requests=max_queued)
    tokenizer: Tokenizer = Letters()  # type: ignore[assignment]
    return OrchestratorBackend(config, tokenizer, 4096, slots, Readings(has_draft=True))


async def ask(server: OrchestratorBackend, name: str) -> str:
    request = GenerationRequest(name, ids(PROMPT), SamplingParams(200, temperature=0.0))
    text, ended = "", False
    async for event in server.generate(request):
        if isinstance(event, Chunk):
            text += event.text
        ended = isinstance(event, Complete)
    assert ended
    return text


async def is_refused(server: OrchestratorBackend, name: str) -> bool:
    with pytest.raises(Overloaded, match="no target slot is free"):
        await ask(server, name)
    return True


async def test_as_many_as_may_queue_are_served_and_the_next_is_refused_before_anybody_is_done():
    slots = placement(num_slots=2)
    server = backend(slots, max_queued=3)
    asked = [asyncio.create_task(ask(server, f"r{i}")) for i in range(5)]
    await soon(lambda: server.queue.num_queued == slots.num_waiting == 3)
    assert await is_refused(server, "one too many")
    assert not any(task.done() for task in asked)
    assert await asyncio.gather(*asked) == [TEXT] * 5
    assert await ask(server, "later") == TEXT
    assert (slots.open_slots, server.queue.num_queued, server.num_running) == ([], 0, 0)


async def test_more_than_all_slots_and_places_are_refused_before_they_ask_for_a_slot():
    slots = placement(num_slots=2)
    server = backend(slots, max_queued=3, guaranteed=2, max_replicas=1)
    asked = [asyncio.create_task(ask(server, f"r{i}")) for i in range(9)]
    await soon(lambda: sum(task.done() for task in asked) == 4)
    assert slots.num_waiting + slots.num_attached["target"] == 5
    refusals = [task.exception() for task in asked if task.done()]
    assert [str(one).partition(" requests")[0] for one in refusals] == ["5"] * 4
    assert await asyncio.gather(*(task for task in asked if not task.done())) == [TEXT] * 5


async def test_without_a_queue_a_burst_gets_the_free_slots_and_the_rest_are_refused_before_anybody_is_done():
    slots = placement(num_slots=2)
    server = backend(slots, max_queued=0)
    asked = [asyncio.create_task(ask(server, f"r{i}")) for i in range(5)]
    await soon(lambda: sum(task.done() for task in asked) >= 3)
    first = [task for task in asked if task.done()]
    assert [type(task.exception()) for task in first] == [Overloaded] * 3
    assert await asyncio.gather(*(task for task in asked if task not in first)) == [TEXT] * 2
    assert slots.open_slots == []


async def test_a_slow_grant_is_no_full_queue_while_there_are_slots_for_all():
    """The machine is busy, or a target hangs: nobody is refused for that."""
    slots = placement(num_slots=0)
    server = backend(slots, max_queued=1, guaranteed=3)
    asked = [asyncio.create_task(ask(server, f"r{i}")) for i in range(3)]
    await soon(lambda: slots.num_waiting == 3)
    await asyncio.sleep(4 * GRACE_S)
    assert (server.queue.num_queued, server.refusal()) == (0, None)
    asked += [asyncio.create_task(ask(server, f"beyond the slots {i}")) for i in range(2)]
    await soon(lambda: any(task.done() for task in asked))
    assert [type(task.exception()) for task in asked if task.done()] == [Overloaded]
    for _ in range(4):
        slots.free.release()
    assert [
        text for text in await asyncio.gather(*asked, return_exceptions=True) if isinstance(text, str)
    ] == [TEXT] * 4


async def test_who_waits_for_a_target_holds_nothing_else():
    slots = placement(num_slots=1)
    server = backend(slots, max_queued=8)
    asked = [asyncio.create_task(ask(server, f"r{i}")) for i in range(4)]
    await soon(lambda: slots.num_waiting == 3 and len(slots.open_slots) >= 2)
    assert sorted(slot.role for slot in slots.open_slots) == ["draft", "target"]
    assert await asyncio.gather(*asked) == [TEXT] * 4


async def test_who_leaves_the_queue_frees_its_place():
    slots = placement(num_slots=1)
    server = backend(slots, max_queued=1)
    first, second = (asyncio.create_task(ask(server, name)) for name in "ab")
    await soon(lambda: server.queue.is_full)
    assert await is_refused(server, "c")
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    third = asyncio.create_task(ask(server, "d"))
    assert await asyncio.gather(first, third) == [TEXT] * 2
    assert (slots.num_waiting, server.queue.num_queued) == (0, 0)


async def test_an_answer_that_lost_its_target_is_not_refused_for_a_full_queue():
    slots = placement(num_slots=1)
    server = backend(slots, max_queued=1)
    first, second = (asyncio.create_task(ask(server, name)) for name in "ab")
    await soon(lambda: server.queue.is_full and bool(slots.open_slots))
    next(slot for slot in slots.open_slots if slot.role == "target").die()
    assert await asyncio.gather(first, second) == [TEXT] * 2


async def test_what_a_target_says_of_itself_counts_from_then_on():
    """Its memory may hold less than the model's own context; requests are checked against that."""
    slots = placement(num_slots=1)
    server = backend(slots, max_queued=1)
    assert [(model.context_len, model.verdict_backend) for model in server.models()] == [(4096, "")]
    server.learn({"max_context": 100, "verdict_backend": "triton"})
    assert [(model.context_len, model.verdict_backend) for model in server.models()] == [(100, "triton")]
    assert server.context_len == 100
    with pytest.raises(ContextTooLong):
        await ask(server, "too long now")
    server.learn({"max_context": 4096})  # a replica of an earlier release
    await ask(server, "fits again")
