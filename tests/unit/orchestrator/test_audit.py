"""The audit finds exactly the tokens that the exact test would not emit, and delays nothing."""

from __future__ import annotations

import asyncio
import random

import pytest

from adasd import LocalPair
from adasd.requests import GenerationRequest, Mode, SamplingParams, SpeculationOptions
from adasd.results import Chunk, Complete, TokenKind
from adasd.rounds import OpenCall, Verdict, VerifyCall
from adasd.testing import loops
from adasd.testing.fake_engine import FakeEngine
from adasd.testing.table_model import TableModel
from services.observability.service_events import (
    AnswerAudited,
    AuditEnded,
    ChunkMade,
    RequestEnded,
    RequestStarted,
)
from services.orchestrator import audit as auditing
from services.orchestrator.audit import AuditedAnswer, Auditor, NotIdle

TARGET = TableModel.random(16, seed=3)
PROMPT = (1, 2, 3)
ADAPTIVE = SpeculationOptions(mode=Mode.ADAPTIVE, acceptance="typical", max_relaxed_fraction=0.5)


class EngineSlot:
    """A target slot on an in-process engine (adasd.ports.Verifier)."""

    def __init__(self, engine: FakeEngine, call: OpenCall) -> None:
        engine.open(call)
        self.engine, self.session = engine, call.session
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def verify(self, call: VerifyCall) -> Verdict:
        await asyncio.sleep(0)
        return loops.verify(self.engine, call)

    async def release(self) -> None:
        self.engine.close(self.session)


class Targets:
    """A Placement whose target is an in-process engine."""

    def __init__(self, engine: FakeEngine, hangs: bool = False) -> None:
        self.engine, self.hangs = engine, hangs

    async def attach_target(self, call: OpenCall) -> EngineSlot:
        if self.hangs:
            await asyncio.sleep(3600)
        return EngineSlot(self.engine, call)


def generated(
    sampling: SamplingParams, options: SpeculationOptions = ADAPTIVE
) -> tuple[list[Chunk], Complete]:
    """One answer of a pair that often disagrees."""
    pair = LocalPair(
        FakeEngine(TARGET), FakeEngine(TARGET.disturbed(2.0)), lambda ids: "." * len(ids), frozenset({0})
    )
    *chunks, end = pair.stream(PROMPT, sampling, options)
    return chunks, end


def answer_of(chunks: list[Chunk], sampling: SamplingParams) -> AuditedAnswer:
    return AuditedAnswer(PROMPT, tuple(token.id for chunk in chunks for token in chunk.tokens), sampling)


def auditor(engine: FakeEngine, told: list, *, is_idle=lambda: True, share=1.0, hangs=False) -> Auditor:
    return Auditor(Targets(engine, hangs), frozenset({0}), share, is_idle, told.append, random.Random(1))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("temperature", [0.0, 0.8])
async def test_tokens_that_differ_are_those_that_were_relaxed(seed: int, temperature: float, monkeypatch):
    monkeypatch.setattr(auditing, "BLOCK_LEN", 1 + 3 * seed)
    sampling = SamplingParams(80, temperature, seed=seed, min_tokens=40, logit_bias=((seed + 1, 1.5),))
    chunks, end = generated(sampling)
    num_relaxed = dict(end.speculation.kinds)[TokenKind.RELAXED]
    engine = FakeEngine(TARGET)
    assert await auditor(engine, []).audit(answer_of(chunks, sampling)) == num_relaxed
    assert engine.num_free_slots == engine.num_slots


async def test_something_was_relaxed():
    """Otherwise the test above would prove nothing."""
    ends = [generated(SamplingParams(80, 0.8, seed=seed, min_tokens=40))[1] for seed in range(4)]
    assert sum(dict(end.speculation.kinds)[TokenKind.RELAXED] for end in ends) > 8


@pytest.mark.parametrize("temperature", [0.0, 0.8])
async def test_an_exact_answer_has_none_and_a_changed_token_is_found(temperature: float):
    sampling = SamplingParams(60, temperature, seed=5, ignore_eos=True)
    chunks, _ = generated(sampling, SpeculationOptions(mode=Mode.EXACT))
    answer, audited = answer_of(chunks, sampling), auditor(FakeEngine(TARGET), [])
    assert await audited.audit(answer) == 0
    first, *rest = answer.tokens
    planted = AuditedAnswer(PROMPT, ((first + 1) % 16, *rest), sampling)
    assert await audited.audit(planted) >= 1


async def test_an_unseeded_answer_differs_as_often_as_another_one_of_the_target_would():
    """Each token agrees with the target's probability of it, so the count's mean and deviation are known."""
    sampling = SamplingParams(200, 1.0, ignore_eos=True)
    chunks, _ = generated(
        SamplingParams(200, 1.0, seed=2, ignore_eos=True), SpeculationOptions(mode=Mode.OFF)
    )
    answer = answer_of(chunks, sampling)
    audited = auditor(FakeEngine(TARGET, seed=9), [])
    found = await audited.audit(answer)
    probabilities = [probability(answer, place) for place in range(len(answer.tokens))]
    mean = sum(1 - p for p in probabilities)
    deviation = sum(p * (1 - p) for p in probabilities) ** 0.5
    assert abs(found - mean) < 4 * deviation  # fails one run in 15,000, and the engine's randomness is seeded
    assert mean > 4 * deviation


def probability(answer: AuditedAnswer, place: int) -> float:
    from adasd.specdec.verify_reference import softmax

    return softmax(TARGET.logits([*answer.prompt, *answer.tokens[:place]]))[answer.tokens[place]]


async def heard(observer: Auditor, told: list, wanted: str) -> None:
    """Wait until an audit has ended with the outcome ``wanted``."""
    async with asyncio.timeout(20):
        while AuditEnded(wanted) not in told:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    await observer.stop()


def tell_about(observer: Auditor, mode: Mode = Mode.ADAPTIVE) -> int:
    """Shows the observer one whole answer; returns its number of relaxed tokens."""
    sampling = SamplingParams(80, 0.0, ignore_eos=True)
    chunks, end = generated(sampling, ADAPTIVE if mode is Mode.ADAPTIVE else SpeculationOptions(mode))
    observer(RequestStarted("r", mode, 3, 0.0, GenerationRequest("r", PROMPT, sampling)))
    for chunk in chunks:
        observer(ChunkMade("r", chunk, 0.0))
    observer(RequestEnded("r", 1.0, end))
    return dict(end.speculation.kinds)[TokenKind.RELAXED]


async def test_what_it_hears_it_audits():
    told: list = []
    observer = auditor(FakeEngine(TARGET), told)
    observer.start()
    num_relaxed = tell_about(observer)
    await heard(observer, told, "done")
    assert told == [AnswerAudited("greedy", 80, num_relaxed), AuditEnded("done")]


async def test_answers_of_other_modes_and_outside_of_the_share_are_left_alone():
    for share, mode in ((1.0, Mode.EXACT), (1.0, Mode.OFF), (0.0, Mode.ADAPTIVE)):
        observer = auditor(FakeEngine(TARGET), [], share=share)
        tell_about(observer, mode)
        assert observer._waiting.empty()


async def test_none_begins_while_the_target_is_busy_and_one_that_runs_gives_up():
    told: list = []
    engine, looks = FakeEngine(TARGET), iter([True, True, False])
    observer = auditor(engine, told, is_idle=lambda: False)
    observer.start()
    tell_about(observer)
    await asyncio.sleep(0.05)
    assert told == []
    await observer.stop()
    sampling = SamplingParams(100, 0.0, ignore_eos=True)
    chunks, _ = generated(sampling)
    with pytest.raises(NotIdle):
        await auditor(engine, [], is_idle=lambda: next(looks)).audit(answer_of(chunks, sampling))
    assert engine.num_free_slots == engine.num_slots


async def test_no_slot_in_time_is_given_up_and_a_stopped_audit_gives_its_slot_back(monkeypatch):
    monkeypatch.setattr(auditing, "ATTACH_TIMEOUT_S", 0.01)
    told: list = []
    observer = auditor(FakeEngine(TARGET), told, hangs=True)
    observer.start()
    tell_about(observer)
    await heard(observer, told, "given_up")
    engine = FakeEngine(TARGET)
    observer = auditor(engine, told)
    observer.start()
    tell_about(observer)
    while engine.num_free_slots == engine.num_slots:  # noqa: ASYNC110
        await asyncio.sleep(0)
    await observer.stop()
    assert engine.num_free_slots == engine.num_slots


async def test_a_flood_of_answers_is_not_remembered(monkeypatch):
    told: list = []
    observer = auditor(FakeEngine(TARGET), told)
    for _ in range(auditing.MAX_WAITING + 3):
        tell_about(observer)
    assert told == [AuditEnded("left_out")] * 3
