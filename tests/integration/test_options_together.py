"""Options that interact in verification: penalties and grammars with block verification, a budget, an early exit.

The reference is plain decoding by the target. With ``top_k`` 1 and no seed a request goes through rejection
sampling (so whole blocks can be judged), yet only one token is possible, so every answer is compared token by
token. Distributions are compared in tests/statistical/test_exact_by_enumeration.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from adasd.config import SpeculationConfig
from adasd.local import Answer, LocalPair
from adasd.requests import Mode, SamplingParams, SpeculationOptions
from tests.integration import every_option as some

NUM_TOKENS = 16
PENALTIES = {"presence_penalty": 0.6, "frequency_penalty": 0.4, "repetition_penalty": 1.2}
SHAPES = {
    "penalties": PENALTIES,
    "regex and penalties": {"grammar": some.SOME_GRAMMARS[2], **PENALTIES},
}
KINDS = {
    "greedy": (SamplingParams(NUM_TOKENS, 0.0), None),
    "seeded": (SamplingParams(NUM_TOKENS, 1.0, seed=7), None),
    "whole blocks": (SamplingParams(NUM_TOKENS, 1.0, top_k=1), "block"),
}
SOURCES = ("model", "model, budget of 2", "self", "self, budget of 2")


@pytest.fixture(scope="module")
def pairs() -> Iterator[dict[str, LocalPair]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    made = {}
    for source in SOURCES:
        name, comma, _ = source.partition(",")
        target = some.engine(some.tiny_model(), early_exit=name == "self", verify_budget=2 if comma else None)
        draft = None if name == "self" else some.engine(some.tiny_model(0.15))
        config = SpeculationConfig(bypass=False)
        made[source] = LocalPair(
            target, draft, some.TOKENIZER.decode, some.TOKENIZER.eos_ids, config, some.TOKENIZER
        )
    yield made
    for pair in made.values():
        for engine in (pair.target, pair.draft):
            assert engine is None or engine.num_free_slots == engine.num_slots
    torch.set_num_threads(threads)


def answers(pair: LocalPair, kind: str, shape: str, length: int = 5) -> Iterator[tuple[Answer, Answer]]:
    """(by speculation, by the target alone) for each prompt."""
    sampling, acceptance = KINDS[kind]
    sampling = replace(sampling, **SHAPES[shape])
    exact = SpeculationOptions(Mode.EXACT, "static", acceptance, max_draft_tokens=length)
    for prompt in some.PROMPTS[:2]:
        yield (
            pair.generate(prompt, sampling=sampling, speculation=exact),
            pair.generate(prompt, sampling=sampling, speculation=SpeculationOptions(Mode.OFF)),
        )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source", SOURCES)
def test_the_answer_is_that_of_the_target_alone(
    pairs: dict[str, LocalPair], source: str, kind: str, shape: str
):
    num_drafted = 0
    for ours, theirs in answers(pairs[source], kind, shape):
        assert some.difference(ours, theirs) is None
        assert ours.report.effective.acceptance == KINDS[kind][1]
        num_drafted += ours.report.num_draft_tokens
    assert num_drafted > 0
