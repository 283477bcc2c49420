"""The target as its own draft, through runner and worker host: exact, also if its replica is lost repeatedly."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from adasd.config import SpeculationConfig
from adasd.control.controller import Controller
from adasd.drafters.lookups import Lookups
from adasd.requests import GenerationRequest, SamplingParams, SpeculationOptions
from adasd.results import Chunk
from adasd.rounds import OpenCall
from adasd.session.opening import transform_of
from adasd.session.runner import Runner, SharedParts
from adasd.session.slots import RunnerSettings
from adasd.testing.faulty_port import LinkFaults
from adasd.testing.loops import plain
from tests.integration.test_exact_under_faults import CALM, Slot, Workers
from tests.unit.engine.forward.test_early_exit import engine
from tests.unit.engine.models import prompts

NUM_TOKENS = 30
FREE = SamplingParams(NUM_TOKENS)
SAMPLINGS = {
    "greedy": replace(FREE, temperature=0.0),
    "seeded": replace(FREE, seed=11),
    "penalties": replace(FREE, seed=8, presence_penalty=0.5, frequency_penalty=0.4, repetition_penalty=1.2),
}
LOSSY = LinkFaults(delay_s=0.002, drop=0.03, timeout_s=0.1)


class Targets(Workers):
    """A placement with targets that draft for themselves, and no draft tier."""

    draft_names: tuple[str, ...] = ()

    def __init__(self, faults: LinkFaults, seed: int) -> None:
        target = engine()
        target.warm_up()
        super().__init__(faults, seed, {"target": target})

    async def attach_draft(self, call: OpenCall, name: str | None = None) -> Slot:
        raise AssertionError("there is no draft tier to ask")


async def answer(
    workers: Targets, number: int, sampling: SamplingParams, prompt: tuple[int, ...]
) -> tuple[list[int], object]:
    controller = Controller(SpeculationConfig(bypass=False), ("self",))
    settings = RunnerSettings(60.0, draft_timeout_s=0.5, reattach_s=0.005, max_target_losses=1000)
    shared = SharedParts(controller, Lookups(), frozenset(), lambda ids: "." * len(ids), 1000, settings)
    options = SpeculationOptions(drafting="static")  # drafts even over slow links
    runner = Runner(GenerationRequest(f"s{number}", prompt, sampling, options), shared, workers)
    tokens: list[int] = []
    async for event in runner.run():
        if isinstance(event, Chunk):
            tokens += [token.id for token in event.tokens]
        else:
            end = event
    return tokens, end.speculation


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS.keys())
@pytest.mark.parametrize("faults", [CALM, LOSSY], ids=["calm", "lossy"])
async def test_output_is_the_targets_own(faults, sampling):
    texts = prompts(5, 20, 33, seed=4)
    expected = [
        plain(engine(early=False), text, NUM_TOKENS, transform_of(sampling, len(text), frozenset()))
        for text in texts
    ]
    async with Targets(faults, seed=2) as workers:
        answers = await asyncio.gather(*(answer(workers, i, sampling, text) for i, text in enumerate(texts)))
        for (tokens, report), truth in zip(answers, expected, strict=True):
            assert tokens == truth
            assert report.drafts_used == ("self",)
        target = workers.engines["target"]
        assert target.num_free_slots == target.num_slots
        target.check_integrity()
    assert sum(report.num_accepted_tokens for _, report in answers) > 0
