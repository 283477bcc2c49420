"""The same agreement on a CUDA device, in float32; other formats are checked for running and for sanity."""

import copy

import pytest
import torch

from adasd.config import EngineConfig
from adasd.engine.engine import TorchEngine
from adasd.engine.split import split
from adasd.messages import DraftRule, Warp
from adasd.testing.contracts import CLAIMS
from adasd.testing.loops import plain, plain_batch, speculative
from tests.unit.engine.models import FAST, GRAMMARS, MODULES_ONLY, generate, original, prompts

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def engine(name, seed=0, *, fast=None, dtype=torch.float32, **settings):
    config = EngineConfig("tiny", **{"num_slots": 8, "prefill_chunk": 40} | settings)
    model = copy.deepcopy(original(name, seed)).to("cuda", dtype)
    return TorchEngine.from_model(model, config, fast=fast, seed=0, grammars=GRAMMARS)


@pytest.mark.parametrize("name", FAST + MODULES_ONLY)
@pytest.mark.parametrize("fast", [False, None])
def test_greedy_answers_are_generate_s(name, fast):
    batch = prompts(3, 50, 1, 90, 17)
    assert plain_batch(engine(name, fast=fast), batch, 20) == [generate(name, p, 20) for p in batch]


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.__name__)
def test_keeps_the_contract(claim):
    e = engine("llama", num_slots=4)
    claim(e)
    e.check_integrity()
    assert e.num_free_slots == 4


@pytest.mark.parametrize("warp", [Warp(temperature=0.0), Warp(temperature=1.2, seed=5)])
def test_speculation_changes_nothing(warp):
    (prompt,) = prompts(12)
    expected = plain(engine("qwen3"), prompt, 30, warp)
    tokens, _ = speculative(engine("qwen3", seed=1), engine("qwen3"), prompt, 30, DraftRule(5), warp)
    assert tokens == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_draft_that_is_the_target_is_mostly_accepted_in_16_bits(dtype):
    (prompt,) = prompts(12)
    pair = engine("llama", dtype=dtype), engine("llama", dtype=dtype)
    _, accepted = speculative(*pair, prompt, 60, DraftRule(4))
    assert sum(accepted) >= 0.8 * 4 * len(accepted)


def test_warm_up_leaves_every_slot_free():
    e = engine("llama")
    e.warm_up()
    e.check_integrity()
    assert e.num_free_slots == e.num_slots


@pytest.mark.parametrize("name", FAST + MODULES_ONLY)
def test_a_model_split_between_the_card_and_the_cpu_answers_as_a_whole_one(name):
    model = split(copy.deepcopy(original(name)), [torch.device("cuda", 0), torch.device("cpu")])
    made = TorchEngine.from_model(model, EngineConfig("tiny", num_slots=8, prefill_chunk=40), seed=0)
    batch = prompts(3, 50, 1)
    assert plain_batch(made, batch, 8) == [generate(name, prompt, 8) for prompt in batch]
