"""Over faulty links, exact output is that of the target alone: pipelined or not, greedy and seeded.

Session, controller, runner and worker hosts are the real ones; the models are tables, the links misbehave.
"""

from __future__ import annotations

import asyncio
import math
import random
from dataclasses import dataclass, field, replace
from itertools import count

import pytest

from adasd.config import SpeculationConfig
from adasd.control.controller import Controller
from adasd.control.draft_choice import task_of
from adasd.drafters.lookups import Lookups
from adasd.ports import Engine
from adasd.requests import GenerationRequest, Grammar, GrammarKind, Mode, SamplingParams, SpeculationOptions
from adasd.results import Chunk
from adasd.rounds import DraftBlock, DraftCall, OpenCall, Verdict, VerifyCall
from adasd.session.opening import transform_of
from adasd.session.runner import Runner, SharedParts
from adasd.session.slots import RunnerSettings
from adasd.testing import loops
from adasd.testing.fake_engine import FakeEngine
from adasd.testing.faulty_port import FaultyPort, LinkFaults
from adasd.testing.letters import letter_grammars
from adasd.testing.table_model import TableModel
from services.worker.host import EngineHost

TARGET = TableModel.random(16, seed=3)
DRAFT = TARGET.disturbed(1.0)
PROMPT = (1, 2, 3)
NUM_TOKENS = 60
MANY = 20
"""Tries for an event that a busy machine can prevent in a single one."""
CALM = LinkFaults()
LINKS = {
    "calm": CALM,
    "slow": LinkFaults(delay_s=0.004),
    "reordering": LinkFaults(delay_s=0.005, duplicate=0.2),
    "lossy": LinkFaults(delay_s=0.002, drop=0.03, duplicate=0.1, timeout_s=0.05),
}
FAR = {
    "late": LinkFaults(delay_s=0.01, in_order=True),
    "late and twice": LinkFaults(delay_s=0.01, in_order=True, duplicate=0.3),
    "overtaking": LinkFaults(delay_s=0.01, duplicate=0.3),
}
GRAMMARS = letter_grammars(16)
DIGITS = Grammar(GrammarKind.REGEX, "((!#)+[%$]|'+)+")
EOS_IDS = frozenset({15})
FREE = SamplingParams(NUM_TOKENS, ignore_eos=True)
SHAPED = replace(
    FREE,
    seed=8,
    frequency_penalty=0.4,
    presence_penalty=-0.3,
    repetition_penalty=1.2,
    grammar=DIGITS,
    min_tokens=10_000,
)
SAMPLINGS = {
    "greedy": replace(FREE, temperature=0.0),
    "seeded": replace(FREE, seed=11),
    "seeded top-p": replace(FREE, seed=5, top_p=0.9),
    "penalties and a grammar": SHAPED,
    "greedy penalties": replace(SHAPED, temperature=0.0, grammar=None),
}


@dataclass
class HostPort:
    """A slot of an in-process worker host."""

    host: EngineHost
    slot: str
    num_early: int = 0  # verdicts on blocks submitted before the verdict they assume
    num_foreseen: int = 0  # of them, those that assumed a rejection
    num_on: int = 0  # plain rounds submitted before the previous token was known

    async def draft(self, call: DraftCall) -> DraftBlock:
        return await self.host.submit(replace(call, session=self.slot))

    async def verify(self, call: VerifyCall) -> Verdict:
        verdict = await self.host.submit(replace(call, session=self.slot))
        self.num_early += call.assuming is not None and bool(call.block)
        self.num_foreseen += call.assuming is not None and call.assuming.num_accepted is not None
        self.num_on += call.assuming is not None and not call.block
        return verdict


@dataclass
class Slot:
    """adasd.ports.Verifier over a faulty link."""

    inner: HostPort
    port: FaultyPort
    released: bool = False
    lost: asyncio.Future[str] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    async def draft(self, call: DraftCall) -> DraftBlock:
        return await self.port.draft(call)

    async def verify(self, call: VerifyCall) -> Verdict:
        return await self.port.verify(call)

    async def release(self) -> None:
        if not self.released:
            self.released = True
            self.lost.cancel()
            await self.port.close()
            await self.inner.host.close(self.inner.slot)


def fake_engines(draft: TableModel = DRAFT) -> dict[str, Engine]:
    models = {"target": TARGET, "draft": draft}
    return {
        role: FakeEngine(model, num_slots=8, max_context=256, grammars=GRAMMARS)
        for role, model in models.items()
    }


def plain_answer(sampling: SamplingParams) -> list[int]:
    """The target's answer without a draft."""
    transform = transform_of(sampling, len(PROMPT), EOS_IDS)
    return loops.plain(FakeEngine(TARGET, max_context=256, grammars=GRAMMARS), PROMPT, NUM_TOKENS, transform)


class Workers:
    """A placement over in-process hosts, one per role."""

    draft_names: tuple[str, ...] = ("model",)

    def __init__(self, faults: LinkFaults, seed: int, engines: dict[str, Engine] | None = None) -> None:
        self.engines = engines or fake_engines()
        self.hosts = {role: EngineHost(lambda e=engine: e, role) for role, engine in self.engines.items()}
        self.faults, self.rng, self.names = faults, random.Random(seed), count()
        self.ports: list[HostPort] = []
        self.faults_of: dict[str, LinkFaults] = {}  # per role, if not the default

    async def __aenter__(self) -> Workers:
        for host in self.hosts.values():
            await host.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for host in self.hosts.values():
            await host.stop()

    async def attach(self, role: str, call: OpenCall) -> Slot:
        name = f"{call.session}.{next(self.names)}"
        try:
            await self.hosts[role].open(replace(call, session=name))
        except asyncio.CancelledError:  # the slot may be open already
            self.hosts[role].release(name)
            raise
        inner = HostPort(self.hosts[role], name)
        self.ports.append(inner)
        return Slot(inner, FaultyPort(inner, role, self.faults_of.get(role, self.faults), self.rng))

    async def attach_target(self, call: OpenCall) -> Slot:
        return await self.attach("target", call)

    async def attach_draft(self, call: OpenCall, name: str | None = None) -> Slot:
        return await self.attach("draft", call)


async def answer(
    workers: Workers,
    session: str,
    sampling: SamplingParams,
    *,
    ahead: bool = False,
    mode: Mode = Mode.EXACT,
    source: str | None = None,
    controller: Controller | None = None,
) -> tuple[list[int], object]:
    request = GenerationRequest(session, PROMPT, sampling, SpeculationOptions(mode=mode, draft=source))
    shared = SharedParts(
        controller or Controller(SpeculationConfig(draft_ahead=ahead)),
        Lookups(recent_tokens=1000),
        EOS_IDS,
        lambda token_ids: "." * len(token_ids),
        256,
        RunnerSettings(60.0, draft_timeout_s=0.03, reattach_s=0.005, max_target_losses=1000),
    )
    runner = Runner(request, shared, workers)
    tokens: list[int] = []
    async for event in runner.run():
        if isinstance(event, Chunk):
            tokens += [token.id for token in event.tokens]
        else:
            end = event
    return tokens, end.speculation


@pytest.mark.parametrize("ahead", [True, False], ids=["pipelined", "in turn"])
@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS.keys())
@pytest.mark.parametrize("faults", LINKS.values(), ids=LINKS.keys())
async def test_output_is_the_targets_own(faults, sampling, ahead):
    expected = plain_answer(sampling)
    async with Workers(faults, seed=7 + ahead) as workers:
        answers = await asyncio.gather(*(answer(workers, f"s{i}", sampling, ahead=ahead) for i in range(4)))
        for tokens, report in answers:
            assert tokens == expected
            assert ahead or report.num_ahead == 0
        for engine in workers.engines.values():
            assert engine.num_free_slots == engine.num_slots
            engine.check_integrity()
    assert faults is not CALM or sum(report.num_draft_rounds for _, report in answers) > 0


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS.keys())
@pytest.mark.parametrize("faults", (LINKS | FAR).values(), ids=(LINKS | FAR).keys())
async def test_a_target_that_decodes_on_before_its_verdict_arrives_changes_nothing(faults, sampling):
    expected = plain_answer(sampling)
    async with Workers(faults, seed=5) as workers:
        answers = await asyncio.gather(*(answer(workers, f"s{i}", sampling, mode=Mode.OFF) for i in range(4)))
        assert all(tokens == expected for tokens, _ in answers)
        for engine in workers.engines.values():
            assert engine.num_free_slots == engine.num_slots
            engine.check_integrity()
        num_on = sum(port.num_on for port in workers.ports)
    if faults is CALM:  # all but the first two tokens: the prefill's, and the first plain round's
        assert num_on == 4 * (NUM_TOKENS - 2)


@pytest.mark.parametrize("source", ["ngram", "suffix", "auto"])
@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS.keys())
@pytest.mark.parametrize("faults", [CALM, LINKS["lossy"]], ids=["calm", "lossy"])
async def test_no_source_changes_the_output(faults, sampling, source):
    """When the draft's link loses calls, ``auto`` changes the draft source in the middle of an answer."""
    expected = plain_answer(sampling)
    controller = Controller(SpeculationConfig(bypass=False))
    used, wanted = set[str](), {"model", "suffix"} if source == "auto" else {source}
    possible = wanted | {"ngram"} if source == "auto" else wanted
    async with Workers(faults, seed=3) as workers:
        for number in range(MANY):
            favoured = ("model", "suffix")[number % 2]  # the fakes' times must not decide what is tried
            task = task_of(PROMPT, (Mode.EXACT, math.ceil(2 * sampling.temperature) / 2))
            controller.selector.learn(task, favoured, tokens=1e4, cost=1e3)
            names = [f"s{number}.{i}" for i in range(1 if faults is CALM else 4)]
            options = {"ahead": True, "source": source, "controller": controller}
            answers = await asyncio.gather(*(answer(workers, name, sampling, **options) for name in names))
            for tokens, report in answers:
                assert tokens == expected
                assert report.effective.draft == source
                used |= set(report.drafts_used)
            if faults is not CALM or (number >= 4 and used >= wanted):
                break
        for engine in workers.engines.values():
            assert engine.num_free_slots == engine.num_slots
    assert used
    assert used <= possible
    assert used >= wanted or faults is not CALM, "how long a link that loses calls keeps its draft is chance"


async def test_on_a_calm_link_blocks_drafted_ahead_are_used():
    async with Workers(CALM, seed=0) as workers:
        for number in range(MANY):
            _, report = await answer(workers, f"s{number}", SAMPLINGS["greedy"], ahead=True)
            if report.num_ahead_used:
                return
    raise AssertionError(f"none was in {MANY} answers")


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS.keys())
@pytest.mark.parametrize("faults", FAR.values(), ids=FAR.keys())
async def test_blocks_that_the_target_was_asked_for_early_change_nothing(faults, sampling):
    """The target is far, the draft near and often right: blocks drafted ahead come before the verdict they assume."""
    expected = plain_answer(sampling)
    async with Workers(CALM, seed=3, engines=fake_engines(TARGET.disturbed(0.05))) as workers:
        workers.faults_of["target"] = faults
        for number in range(MANY):
            names = [f"s{number}.{i}" for i in range(4)]
            answers = await asyncio.gather(*(answer(workers, name, sampling, ahead=True) for name in names))
            assert all(tokens == expected for tokens, _ in answers)
            if not faults.in_order or any(port.num_early for port in workers.ports):
                return
    raise AssertionError(f"nothing was asked for early in {MANY} times {len(names)} answers")


@pytest.mark.parametrize("sampling", ["greedy", "seeded"])
@pytest.mark.parametrize("faults", FAR.values(), ids=FAR.keys())
async def test_rejections_that_the_draft_foresaw_change_nothing(faults, sampling):
    """Tries drafts in turn, until one foresaw a rejection and the target got that block early."""
    expected = plain_answer(SAMPLINGS[sampling])
    for seed in range(MANY):
        async with Workers(CALM, seed=3, engines=fake_engines(TARGET.disturbed(0.3, seed))) as workers:
            workers.faults_of["target"] = faults
            sessions = (answer(workers, f"s{i}", SAMPLINGS[sampling], ahead=True) for i in range(4))
            assert all(tokens == expected for tokens, _ in await asyncio.gather(*sessions))
            if not faults.in_order or any(port.num_foreseen for port in workers.ports):
                return
    raise AssertionError(f"none of {MANY} drafts foresaw one")
