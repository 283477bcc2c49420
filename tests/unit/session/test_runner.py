"""The runner under faults: the answer is right, the slots are freed, and nothing waits for ever."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from adasd.config import SpeculationConfig
from adasd.control.bypass import Bypass
from adasd.control.controller import Circumstance, Controller
from adasd.control.draft_sources import MODEL
from adasd.errors import DeadlineExceeded, DeviceFailure, Overloaded, WorkerLost
from adasd.requests import GenerationRequest, Mode, SamplingParams, SpeculationOptions
from adasd.results import Chunk, Complete, FinishReason, TokenKind
from adasd.rounds import Verdict, VerifyCall
from adasd.session.events import DraftAttached, DraftLate, DraftLeft
from adasd.session.runner import Runner
from adasd.session.slots import RunnerSettings
from adasd.session.state import Phase
from tests.unit.orchestrator.fakes import EOS, FakePlacement, FakeSlot, Faults, ids, shared

PROMPT = "say: "
TEXT = "the quick brown fox jumps over the lazy dog and hides in the deep dark wood"


def world(**faults: object) -> FakePlacement:
    return FakePlacement((*ids(PROMPT + TEXT), EOS, *ids("x" * 40)), Faults(**faults))  # type: ignore[arg-type]


def runner(
    placement: FakePlacement, mode: Mode = Mode.EXACT, drafting: str | None = None, **settings: float
) -> Runner:
    times = {"request_timeout_s": 20.0, "draft_timeout_s": 0.05, "reattach_s": 0.01} | settings
    request = GenerationRequest(
        "s",
        ids(PROMPT),
        SamplingParams(200, temperature=0.0),
        SpeculationOptions(mode=mode, drafting=drafting),
    )
    controller = Controller(SpeculationConfig(), placement.draft_names)
    return Runner(request, shared(controller, RunnerSettings(**times)), placement)  # type: ignore[arg-type]


async def text_and_end(running: Runner) -> tuple[str, Complete]:
    text, end = "", None
    async for event in running.run():
        if isinstance(event, Chunk):
            text += event.text
        else:
            end = event
    assert end is not None
    return text, end


async def test_an_answer_comes_chunk_by_chunk_and_its_figures_add_up():
    placement = world(draft_wrong=0.02)
    text, end = await text_and_end(runner(placement, drafting="calibrated"))
    report = end.speculation
    assert text == TEXT
    assert end.finish_reason is FinishReason.STOP
    assert end.usage.completion_tokens == len(TEXT) + 1 == sum(dict(report.kinds).values())
    assert report.num_accepted_tokens == dict(report.kinds)[TokenKind.EXACT] > 0
    assert report.num_ahead >= report.num_ahead_used > 0
    assert placement.open_slots == []


async def test_mode_off_takes_no_draft_slot():
    placement = world()
    text, end = await text_and_end(runner(placement, Mode.OFF))
    assert text == TEXT
    assert placement.num_attached == {"draft": 0, "target": 1}
    assert end.speculation.num_draft_rounds == 0


@pytest.mark.parametrize(("wait", "num_drafts"), [(1000, 0), (16, 1)])
async def test_while_drafting_is_bypassed_a_draft_slot_is_taken_only_for_a_trial(wait, num_drafts):
    placement = world()
    running = runner(placement)
    controller = running.shared.controller
    learned = controller.shared(Circumstance(MODEL, Mode.EXACT, 0.0))
    learned.bypass = Bypass(drafts=False, wait=wait)
    text, end = await text_and_end(Runner(running.request, running.shared, placement))
    assert text == TEXT
    assert placement.num_attached == {"draft": num_drafts, "target": 1}
    assert (end.speculation.num_draft_rounds > 0) == (num_drafts > 0)
    assert placement.open_slots == []


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "faults",
    [
        {"draft_dies": 0.3},
        {"draft_hangs": 0.2},
        {"target_dies": 0.05},
        {"draft_dies": 0.2, "draft_hangs": 0.1, "target_dies": 0.03, "delay_s": 0.001},
        {"no_draft_slots": True},
    ],
    ids=str,
)
async def test_losses_cost_speed_and_never_the_answer(faults, seed):
    placement = world(**faults, seed=seed)
    running = runner(placement, draft_timeout_s=0.02, max_target_losses=100)
    text, _ = await text_and_end(running)
    assert text == TEXT
    assert placement.open_slots == []


async def test_a_draft_lost_while_idle_is_replaced():
    placement = world(delay_s=0.002)
    stream = runner(placement).run()
    await anext(stream)
    next(slot for slot in placement.open_slots if slot.role == "draft").die()
    events = [event async for event in stream]
    assert isinstance(events[-1], Complete)
    assert placement.num_attached["draft"] >= 2
    assert events[-1].speculation.draft_lost >= 1


async def test_a_target_that_keeps_dying_ends_with_a_clear_error():
    placement = world(target_dies=1.0)
    with pytest.raises(WorkerLost, match=r"killed|gone"):
        await text_and_end(runner(placement))
    assert placement.open_slots == []


async def test_the_second_loss_of_a_target_and_those_behind_it_wait_longer_and_longer(monkeypatch):
    placement, slept, sleep = world(target_dies=1.0), [], asyncio.sleep

    async def note(seconds: float) -> None:
        slept.append(seconds)
        await sleep(0)

    monkeypatch.setattr("adasd.session.slots.asyncio.sleep", note)
    with pytest.raises(WorkerLost):
        await text_and_end(runner(placement, reattach_s=0.5))
    assert [seconds for seconds in slept if seconds] == [0.08, 0.16, 0.32, 0.5]


async def test_a_lost_target_that_nobody_replaces_is_why_the_answer_ends():
    placement = world(delay_s=0.002)
    stream = runner(placement).run()
    await anext(stream)
    placement.faults = replace(placement.faults, no_target_slots=True)
    next(slot for slot in placement.open_slots if slot.role == "target").die()
    with pytest.raises(WorkerLost, match=r"lost: .*, and no other one took over \("):
        [event async for event in stream]
    assert placement.open_slots == []


async def test_a_replacement_that_refuses_the_session_is_told_as_the_loss_that_it_was_to_replace(monkeypatch):
    """The opening travels with the first call, so the refusal comes with its reply."""
    placement = world(delay_s=0.002)
    stream = runner(placement).run()
    await anext(stream)

    async def refuse(slot: FakeSlot, call: VerifyCall) -> Verdict:
        raise Overloaded("no slot is free")

    monkeypatch.setattr(FakeSlot, "verify", refuse)
    next(slot for slot in placement.open_slots if slot.role == "target").die()
    with pytest.raises(WorkerLost, match=r"lost: .*, and no other one took over \("):
        [event async for event in stream]
    assert placement.open_slots == []


async def test_a_device_that_fails_on_every_slot_ends_the_answer_with_its_error(monkeypatch):
    placement = world()

    async def out_of_memory(slot: FakeSlot, call: VerifyCall) -> Verdict:
        raise DeviceFailure("out of memory")

    monkeypatch.setattr(FakeSlot, "verify", out_of_memory)
    with pytest.raises(WorkerLost, match=r"out of memory \(for the 6th time\)"):
        await text_and_end(runner(placement))
    assert placement.num_attached["target"] == 6
    assert placement.open_slots == []


async def test_no_target_slot_is_an_error_before_the_first_chunk():
    placement = world(no_target_slots=True)
    with pytest.raises(Overloaded):
        await anext(runner(placement).run())
    assert placement.open_slots == []


async def test_a_target_slot_that_was_refused_after_all_is_an_error_before_the_first_chunk(monkeypatch):
    """The first call travels with the opening, so it returns the opening's refusal."""
    placement = world()

    async def refused(slot: FakeSlot, call: VerifyCall) -> Verdict:
        raise Overloaded("every slot is open")

    monkeypatch.setattr(FakeSlot, "verify", refused)
    with pytest.raises(Overloaded, match="every slot is open"):
        await text_and_end(runner(placement))
    assert placement.num_attached["target"] == 1
    assert placement.open_slots == []


async def test_the_deadline_ends_a_request_that_hangs():
    placement = world(delay_s=0.5)
    with pytest.raises(DeadlineExceeded):
        await text_and_end(runner(placement, request_timeout_s=0.1))
    assert placement.open_slots == []


async def test_a_caller_who_leaves_frees_both_slots():
    placement = world(delay_s=0.001)
    stream = runner(placement).run()
    await anext(stream)
    await anext(stream)
    assert len(placement.open_slots) == 2
    await stream.aclose()
    assert placement.open_slots == []


async def test_a_caller_who_is_cancelled_frees_both_slots():
    placement = world(delay_s=0.01)
    task = asyncio.create_task(text_and_end(runner(placement)))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert placement.open_slots == []
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("role", ["draft", "target"])
async def test_a_slot_that_comes_after_the_end_is_given_back_at_once(role: str):
    """Seen with one-token answers: the lease arrives just as the wait for it is cancelled."""
    placement = world(misses_cancellation=role)
    async with asyncio.timeout(20):
        if role == "draft":
            assert (await text_and_end(runner(placement)))[0] == TEXT
        else:
            with pytest.raises(DeadlineExceeded):
                await text_and_end(runner(placement, request_timeout_s=0.05))
    assert placement.num_attached[role] == 1
    assert placement.open_slots == []


async def test_abort_ends_the_stream_with_its_own_reason():
    placement = world(delay_s=0.002)
    running = runner(placement)
    stream = running.run()
    await anext(stream)
    running.cancel()
    events = [event async for event in stream]
    assert events[-1].finish_reason is FinishReason.CANCELLED
    assert placement.open_slots == []


async def test_the_next_ask_leaves_before_the_chunk_is_read():
    """A slow reader of the first chunk does not delay the next round."""
    placement = world()
    stream = runner(placement, Mode.OFF).run()
    await anext(stream)
    (target,) = placement.open_slots
    assert len(target.cache) == len(PROMPT) + 1  # the second verify call has arrived: it fed the first token
    await stream.aclose()


async def test_while_a_round_waits_for_its_block_the_exchange_of_the_draft_waits_too():
    running = runner(world())
    running.tasks.post(DraftLeft())
    running.tasks.post(DraftAttached())
    running.tasks.post(DraftLate(7))
    assert await running.next_event(Phase.DRAFTING) == DraftLate(7)
    assert await running.next_event(Phase.VERIFYING) == DraftLeft()
    assert await running.next_event(Phase.VERIFYING) == DraftAttached()


@pytest.mark.parametrize("num_exchanges", [1, 2])
@pytest.mark.parametrize("dies", [True, False])
async def test_a_draft_that_is_exchanged_while_it_drafts_holds_up_nothing_even_if_it_dies(
    num_exchanges, dies, monkeypatch
):
    """The loss of a draft that is being exchanged is not reported, and of two exchanges one takes place."""
    placement, honest = world(), FakeSlot.draft
    running = runner(placement, drafting="adasd:patience=0", draft_timeout_s=5.0)
    asked = []

    async def draft(slot, call):
        asked.append(id(slot) if call.rule.max_tokens else None)
        if len(asked) - asked.count(None) == 1 and asked[-1]:  # the first block, which its round waits for
            before = running.slots.draft
            assert before is slot
            exchanges = (running.slots.change_draft(MODEL, before) for _ in range(num_exchanges))
            await asyncio.gather(*exchanges)
            if dies:
                raise WorkerLost("draft", "killed")
        return await honest(slot, call)

    monkeypatch.setattr(FakeSlot, "draft", draft)
    async with asyncio.timeout(3.0):
        text, end = await text_and_end(running)
    assert text == TEXT
    assert placement.open_slots == []
    assert end.speculation.draft_lost == dies
    users = list(dict.fromkeys(filter(None, asked)))
    assert len(users) == 2
    assert asked.count(users[1]) > 3, "the draft that was attached drafts on"


async def test_a_block_drafted_ahead_counts_only_while_its_round_waits(monkeypatch):
    """A verdict takes 20 s of the clock; a block that was begun beside it comes 5 s after it."""
    honest, honest_verify, now, rounds = FakeSlot.draft, FakeSlot.verify, [100.0], []

    async def verify(slot, call):
        for _ in range(5):  # the draft is asked meanwhile
            await asyncio.sleep(0)
        now[0] += 20.0
        return await honest_verify(slot, call)

    async def draft(slot, call):
        if call.optimistic:
            await running.verdict_posted.wait()
            now[0] += 5.0
        return await honest(slot, call)

    def noted(done):
        rounds.append(done)
        return done

    placement = world(draft_wrong=0.0)
    running = runner(placement, drafting="static")
    running.shared = replace(running.shared, clock=lambda: now[0], as_timed=noted)
    monkeypatch.setattr(FakeSlot, "draft", draft)
    monkeypatch.setattr(FakeSlot, "verify", verify)
    text, end = await text_and_end(running)
    assert text == TEXT
    assert end.speculation.num_ahead_used > 0
    assert 5000.0 in {done.draft_ms for done in rounds}
    assert max(done.draft_ms for done in rounds) <= 5000.0


async def test_a_draft_is_told_when_to_begin_no_further_token(monkeypatch):
    told = []

    async def draft(slot, call):
        told.append(call.patience_s)
        return await honest(slot, call)

    honest = FakeSlot.draft
    monkeypatch.setattr(FakeSlot, "draft", draft)
    text, _ = await text_and_end(runner(world(), draft_timeout_s=8.0))
    assert text == TEXT
    assert set(told) == {4.0}
