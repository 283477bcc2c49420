"""Draft sources of one answer: the requested one drafts; one that fails is replaced if the request allows it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from adasd.config import SpeculationConfig
from adasd.control.bypass import LONGEST_WAIT, Bypass
from adasd.control.controller import Circumstance, Controller
from adasd.control.draft_choice import OWN_ROUNDS
from adasd.drafters.lookups import Lookups
from adasd.drafters.sources import DraftSources
from adasd.requests import GenerationRequest, Mode, SamplingParams, SpeculationOptions
from adasd.results import Chunk, Complete
from adasd.rounds import OpenCall, RoundCompleted, SamplingTransform
from adasd.session.runner import Runner
from adasd.session.slots import RunnerSettings
from tests.unit.orchestrator.fakes import EOS, FakePlacement, FakeSlot, Faults, ids, shared

PROMPT = "the cat sat on the mat and the dog sat on the rug; again: "
TEXT = "the cat sat on the mat and the dog sat on the rug"


class Tiers(FakePlacement):
    """Records the tier of every draft slot; ``closed`` tiers grant none."""

    def __init__(self, names: tuple[str, ...], closed: tuple[str, ...] = (), **faults: object) -> None:
        truth = (*ids(PROMPT + TEXT), EOS, *ids("x" * 40))
        super().__init__(truth, Faults(**faults), draft_names=names)  # type: ignore[arg-type]
        self.closed, self.asked = closed, []

    async def attach_draft(self, call: OpenCall, name: str | None = None) -> FakeSlot:
        self.asked.append(name)
        return self.attach("draft", refuse=name in self.closed)


def runner(placement: Tiers, draft: str | None, controller: Controller | None = None) -> Runner:
    controller = controller or Controller(
        SpeculationConfig(bypass=False, drafting="adasd"), placement.draft_names
    )
    options = SpeculationOptions(Mode.EXACT, draft=draft)
    request = GenerationRequest("s", ids(PROMPT), SamplingParams(100, temperature=0.0), options)
    return Runner(request, shared(controller, RunnerSettings(20.0, 0.1, 0.005)), placement)


async def answer(running: Runner) -> Complete:
    text, end = "", None
    async for event in running.run():
        if isinstance(event, Chunk):
            text += event.text
        else:
            end = event
    assert text == TEXT
    assert isinstance(end, Complete)
    assert running.slots._placement.inner.open_slots == []  # type: ignore[attr-defined]
    assert len(asyncio.all_tasks()) == 1
    return end


@pytest.mark.parametrize("source", ["ngram", "suffix"])
async def test_a_look_up_drafts_without_any_draft_tier(source):
    placement = Tiers(())
    report = (await answer(runner(placement, source))).speculation
    assert report.effective.draft == source
    assert report.drafts_used == (source,)
    assert report.num_accepted_tokens > len(TEXT) / 2
    assert report.draft_lost == 0
    assert placement.asked == []


def in_one_ms(done: RoundCompleted) -> RoundCompleted:
    """A round whose verdict took 1 ms and whose look-up took none, so that times decide nothing."""
    verdict = replace(done.verdict, compute_ms=1.0, queue_ms=0.0)
    return replace(done, verdict=verdict, draft_ms=0.0, verify_ms=1.0, overhead_ms=0.0)


@pytest.mark.parametrize("source", ["ngram", "suffix"])
async def test_a_predicted_answer_takes_fewer_rounds_and_a_wrong_one_changes_nothing(source):
    question, story = "tell me: ", "a quick brown fox jumps over one lazy dog by night"
    controller = Controller(
        SpeculationConfig(), ()
    )  # with the bypass, which learns that look-ups find nothing here
    settings = RunnerSettings(20.0, 0.1, 0.005)

    async def rounds(prediction: str) -> int:
        options = SpeculationOptions(Mode.EXACT, draft=source)
        asked = SamplingParams(100, temperature=0.0)
        request = GenerationRequest("s", ids(question), asked, options, prediction=ids(prediction))
        placement = FakePlacement((*ids(question + story), EOS, *ids("x" * 40)), Faults(), draft_names=())
        parts = replace(shared(controller, settings), as_timed=in_one_ms)
        events = [event async for event in Runner(request, parts, placement).run()]
        assert "".join(event.text for event in events if isinstance(event, Chunk)) == story
        assert isinstance(events[-1], Complete)
        return events[-1].speculation.num_rounds

    without = [await rounds("") for _ in range(3)][-1]
    assert await rounds(story) < without / 2
    assert await rounds(story.replace("brown", "red")) < without / 2
    assert await rounds(story) < without / 2
    assert await rounds(story[::-1]) > without / 2


@pytest.mark.parametrize("source", ["model", "tiny"])
async def test_the_tier_that_is_asked_for_drafts(source):
    placement = Tiers(("model", "tiny"), draft_wrong=0.1)
    report = (await answer(runner(placement, source))).speculation
    assert set(placement.asked) == {source}
    assert report.drafts_used == (source,)


async def test_who_asks_for_a_model_that_is_away_gets_plain_decoding():
    placement = Tiers(("model",), closed=("model",))
    report = (await answer(runner(placement, "model"))).speculation
    assert report.num_draft_rounds == 0
    assert report.drafts_used == ()


async def test_auto_goes_on_with_another_source_where_one_cannot_be_had():
    placement = Tiers(("model", "tiny"), closed=("model", "tiny"), delay_s=0.003)
    report = (await answer(runner(placement, "auto"))).speculation
    assert placement.asked[:2] == ["model", "tiny"]
    assert report.effective.draft == "auto"
    assert report.drafts_used == ("suffix",)


@pytest.mark.parametrize("seed", range(5))
async def test_auto_goes_on_with_another_source_when_one_dies(seed):
    placement = Tiers(("model",), draft_dies=0.5, delay_s=0.002, seed=seed)
    report = (await answer(runner(placement, "auto"))).speculation
    assert report.draft_lost == 0 or {"suffix", "ngram"} & set(report.drafts_used)


async def test_auto_changes_to_what_is_better_and_loses_nothing_by_it():
    placement = Tiers(("model",), draft_wrong=0.97, delay_s=0.001)
    controller = Controller(SpeculationConfig(bypass=False, drafting="adasd"), placement.draft_names)
    running = runner(placement, "auto", controller)
    task = running.controller._task
    for _ in range(30):
        controller.selector.learn(task, "suffix", 5.0, 1.0)
        controller.selector.learn(task, "model", 5.2, 1.0)
    report = (await answer(running)).speculation
    assert report.drafts_used[-1] == "suffix"
    assert len(report.drafts_used) == 2
    assert report.draft_lost == 0
    assert report.num_draft_rounds >= OWN_ROUNDS


async def test_auto_finds_a_look_up_in_an_answer_that_was_begun_without_any_draft():
    """The model is hopeless and bypassed, so nothing is attached until the text shows that a look-up would be right."""
    placement = Tiers(("model",))
    controller = Controller(SpeculationConfig(drafting="adasd"), placement.draft_names)
    controller.shared(Circumstance("model", Mode.EXACT, 0.0)).bypass = Bypass(drafts=False, wait=LONGEST_WAIT)
    running = runner(placement, "auto", controller)
    running.shared = replace(running.shared, as_timed=in_one_ms)
    report = (await answer(running)).speculation
    assert placement.asked == []
    assert report.drafts_used in {("suffix",), ("ngram",)}
    assert report.num_accepted_tokens > len(TEXT) / 3


async def test_a_long_prompt_is_read_without_holding_up_the_loop():
    text = ids("ab" * 20_000)
    controller = Controller(SpeculationConfig(), ())
    session = controller.session(
        controller.effective(SpeculationOptions(draft="suffix")), SamplingTransform(), text
    )
    placement = DraftSources(Tiers(()), Lookups(), session)
    slot = await placement.attach_draft(OpenCall("s", SamplingTransform(), 10))
    from adasd.rounds import DraftCall, StopRule

    others = 0

    async def other() -> None:
        nonlocal others
        while True:
            others += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    drafted = await slot.draft(DraftCall("s", 1, 0, text, StopRule(4)))
    task.cancel()
    assert drafted.tokens == ids("abab")
    assert others > 50
    await slot.release()
    assert slot.lost.cancelled()
