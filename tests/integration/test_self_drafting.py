"""The target as its own draft through runner and worker host: exact, also while its replica is lost again and again."""

from __future__ import annotations

import asyncio

import pytest

from adasd.config import SpeculationConfig
from adasd.control.controller import Controller
from adasd.drafters.lookups import Lookups
from adasd.requests import SamplingParams, SpeculationOptions
from adasd.results import Chunk
from adasd.rounds import OpenCall, SamplingTransform
from adasd.session.runner import Limits, Runner
from adasd.session.state import Terms
from adasd.testing.faulty_port import LinkFaults
from adasd.testing.loops import plain
from services.orchestrator.draft_sources import SourcedPlacement
from tests.integration.test_exact_under_faults import CALM, Slot, Workers
from tests.unit.engine.models import prompts
from tests.unit.engine.test_early_exit import engine

NUM_TOKENS = 30
PENALTIES = SamplingTransform(
    seed=8, presence_penalty=0.5, frequency_penalty=0.4, repetition_penalty=1.2, answer_from=5
)
WARPS = {
    "greedy": SamplingTransform(temperature=0.0),
    "seeded": SamplingTransform(seed=11),
    "penalties": PENALTIES,
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
    workers: Targets, number: int, transform: SamplingTransform, prompt: tuple[int, ...]
) -> tuple[list[int], object]:
    controller = Controller(SpeculationConfig(bypass=False), ("self",))
    effective = controller.effective(SpeculationOptions())
    plans = controller.session(effective, transform, prompt)
    sampling = SamplingParams(NUM_TOKENS, transform.temperature, top_p=transform.top_p, seed=transform.seed)
    runner = Runner(
        Terms(f"s{number}", prompt, sampling, frozenset(), lambda ids: "." * len(ids)),
        OpenCall(f"s{number}", transform, len(prompt) + NUM_TOKENS),
        effective,
        plans,
        SourcedPlacement(workers, Lookups(), plans),
        Limits(60.0, draft_timeout_s=0.5, reattach_s=0.005, max_target_losses=1000),
    )
    tokens: list[int] = []
    async for event in runner.run():
        if isinstance(event, Chunk):
            tokens += [token.id for token in event.tokens]
        else:
            end = event
    return tokens, end.speculation


@pytest.mark.parametrize("transform", WARPS.values(), ids=WARPS.keys())
@pytest.mark.parametrize("faults", [CALM, LOSSY], ids=["calm", "lossy"])
async def test_output_is_the_targets_own(faults, transform):
    texts = prompts(5, 20, 33, seed=4)
    expected = [plain(engine(early=False), text, NUM_TOKENS, transform) for text in texts]
    async with Targets(faults, seed=2) as workers:
        answers = await asyncio.gather(*(answer(workers, i, transform, text) for i, text in enumerate(texts)))
        for (tokens, report), truth in zip(answers, expected, strict=True):
            assert tokens == truth
            assert report.drafts_used == ("self",)
        target = workers.engines["target"]
        assert target.num_free_slots == target.num_slots
        target.check_integrity()
    assert sum(report.num_accepted_tokens for _, report in answers) > 0
