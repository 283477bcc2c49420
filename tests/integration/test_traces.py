"""Traces of the demo pair agree with real decoding by the same pair."""

from pathlib import Path

import pytest

from adasd.config import EngineConfig, SpeculationConfig
from adasd.engine.loading.model import load_model
from adasd.evaluate.collect import ModelSource, collect
from adasd.evaluate.compared_methods import method
from adasd.evaluate.measure import load_pair
from adasd.evaluate.questions import demo
from adasd.evaluate.replay import Costs, replay
from adasd.local import LocalPair
from adasd.requests import SamplingParams
from adasd.results import Complete

DEMO = Path(__file__).resolve().parents[2] / "models" / "demo"
TARGET, DRAFT = DEMO / "target", DEMO / "draft"
NUM_TOKENS = 60


@pytest.fixture(scope="module")
def pair():
    return load_pair(str(TARGET), str(DRAFT))


@pytest.fixture(scope="module")
def prompts(pair):
    return [
        (item.group, pair.tokenizer.apply_chat_template([{"role": "user", "content": item.prompt}]))
        for item in demo(2, seed=11)
    ]


def traces(pair, prompts, temperature):
    target, draft = (load_model(EngineConfig(str(folder), dtype="float32")) for folder in (TARGET, DRAFT))
    batches = collect(
        target,
        {"model": ModelSource(draft)},
        prompts,
        [temperature],
        eos_ids=pair.eos_ids,
        max_tokens=NUM_TOKENS,
        seed=3,
    )
    return [one for batch in batches for one in batch["model"]]


@pytest.mark.parametrize("name", ["static-5", "static-16", "adasd", "off"])
def test_greedy_rounds_are_those_of_the_pair_itself(pair, prompts, name):
    chosen = method(name)
    replayed = replay(traces(pair, prompts, 0.0), chosen, Costs(0.1))
    fresh = LocalPair(pair.target, pair.draft, pair.decode, pair.eos_ids, SpeculationConfig(), pair.tokenizer)
    for (_, prompt), answer in zip(prompts, replayed, strict=True):
        *_, end = fresh.stream(prompt, SamplingParams(NUM_TOKENS, 0.0), chosen.options)
        assert isinstance(end, Complete)
        report = end.speculation
        assert (answer.num_tokens + 1, answer.num_rounds, answer.num_drafted) == (
            end.usage.completion_tokens,
            report.num_rounds,
            report.num_draft_tokens,
        )


def test_sampled_traces_accept_as_often_as_the_pair_itself(pair, prompts):
    """Shares of about 450 judged tokens each: 0.13 is four standard deviations of their difference."""
    sampled = traces(pair, prompts, 1.0)
    assert traces(pair, prompts, 1.0) == sampled  # equal seeds, equal traces
    chosen = method("static-2")
    fresh = LocalPair(pair.target, pair.draft, pair.decode, pair.eos_ids, SpeculationConfig(), pair.tokenizer)
    ends = [
        list(fresh.stream(prompt, SamplingParams(NUM_TOKENS, 1.0), chosen.options))[-1]
        for _, prompt in prompts
    ]
    rounds = sum(end.speculation.num_rounds for end in ends)
    real = (sum(end.usage.completion_tokens for end in ends) - len(ends)) / rounds
    replayed = replay(sampled, chosen, Costs(0.1))
    modelled = sum(answer.num_tokens for answer in replayed) / sum(answer.num_rounds for answer in replayed)
    assert modelled == pytest.approx(real, abs=0.3)  # tokens per round, of 3 at most
