"""Agreement with transformers on a CUDA device in float32; other formats must run and be plausible."""

import copy

import pytest
import torch

from adasd.config import EngineConfig
from adasd.engine.cache.kv_cache import KVCache
from adasd.engine.cache.pages import Pages
from adasd.engine.cache.slots import Slot
from adasd.engine.engine import TorchEngine
from adasd.engine.forward.batch import ForwardBatch
from adasd.engine.work import DraftWork, StepInput
from adasd.rounds import DraftCall, SamplingTransform, StopRule
from adasd.specdec.turns import kind_of_turn
from adasd.testing.contracts import CLAIMS
from adasd.testing.loops import plain, plain_batch, speculative
from tests.unit.engine.models import FAST, GRAMMARS, MODULES_ONLY, VOCAB_SIZE, generate, original, prompts

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


MAX_CONTEXT = 160


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


@pytest.mark.parametrize(
    "transform", [SamplingTransform(temperature=0.0), SamplingTransform(temperature=1.2, seed=5)]
)
def test_speculation_changes_nothing(transform):
    (prompt,) = prompts(12)
    expected = plain(engine("qwen3"), prompt, 30, transform)
    tokens, _ = speculative(engine("qwen3", seed=1), engine("qwen3"), prompt, 30, StopRule(5), transform)
    assert tokens == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_draft_that_is_the_target_is_mostly_accepted_in_16_bits(dtype):
    (prompt,) = prompts(12)
    pair = engine("llama", dtype=dtype), engine("llama", dtype=dtype)
    _, accepted = speculative(*pair, prompt, 60, StopRule(4))
    assert sum(accepted) >= 0.8 * 4 * len(accepted)


def test_warm_up_leaves_every_slot_free():
    e = engine("llama")
    e.warm_up()
    e.check_integrity()
    assert e.num_free_slots == e.num_slots


# --------------------------------------------------------------------------- recorded passes


def pages(num_slots):
    """Every slot has room for the whole context."""
    layout = Pages(num_slots, MAX_CONTEXT, 256, num_slots)
    for _ in range(num_slots):
        layout.extend(layout.allocate((), ()).slot, 0, MAX_CONTEXT)
    return layout


def recorded(name, seed=0, **settings):
    """An engine with ``fast`` set, so CUDA graphs are required."""
    made = engine(name, seed, compile="on", **settings)
    assert made.forward.num_recorded > 0
    return made


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_graphs_are_recorded_and_give_the_logits_of_the_pass_itself(name, dtype):
    graphs = recorded(name, dtype=dtype).forward
    plain_pass = graphs.inner
    caches = [KVCache(graphs.layers, pages(8), dtype, graphs.device) for _ in range(2)]
    with torch.inference_mode():
        graphs.prepare(caches[0], VOCAB_SIZE)
        for start in (0, 4, 8):
            rows = [StepInput(1, start, (3, 1, 4, 1), 3), StepInput(6, start, (5, 9, 2, 6), 1)]
            batches = [ForwardBatch(rows, caches[0].layout, graphs.device) for _ in range(2)]
            found, expected = graphs(batches[0], caches[0]), plain_pass(batches[1], caches[1])
            near = 1e-3 if dtype == torch.float32 else 0.3
            torch.testing.assert_close(found.float(), expected.float(), rtol=near, atol=near)


@pytest.mark.parametrize("name", FAST)
def test_recorded_passes_answer_as_generate_does(name):
    batch = prompts(3, 50, 1, 90, 17)
    assert plain_batch(recorded(name), batch, 20) == [generate(name, p, 20) for p in batch]


@pytest.mark.parametrize(
    "transform", [SamplingTransform(temperature=0.0), SamplingTransform(temperature=1.2, seed=5, top_p=0.9)]
)
@pytest.mark.parametrize("rule", [StopRule(5), StopRule(16), StopRule(12, entropy_ceiling=2.0)])
def test_speculation_over_recorded_passes_changes_nothing(transform, rule):
    (prompt,) = prompts(12)
    expected = plain(engine("qwen3", compile="off"), prompt, 30, transform)
    tokens, _ = speculative(recorded("qwen3", seed=1), recorded("qwen3"), prompt, 30, rule, transform)
    assert tokens == expected


@pytest.mark.parametrize("name", MODULES_ONLY)
def test_a_model_that_cannot_be_recorded_answers_all_the_same(name):
    made = engine(name)
    batch = prompts(3, 50)
    assert plain_batch(made, batch, 12) == [generate(name, p, 12) for p in batch]


@pytest.mark.parametrize(
    "transform",
    [
        SamplingTransform(temperature=0.0),
        SamplingTransform(temperature=1.2, seed=5),
        SamplingTransform(temperature=0.9),
    ],
)
def test_turns_of_a_burst_do_not_wait_for_the_device(transform):
    made = recorded("llama")
    rule = StopRule(12, row_len=0 if transform.greedy else 4)
    work = DraftWork(Slot("0", 80), transform, 0.0, call=DraftCall("0", 0, 9, (1,), rule))
    cache, vocab_size = made.cache, made.vocab_size
    turns = made.forward._turns_for([work], cache, vocab_size)
    kind = kind_of_turn([transform], transform.greedy)
    cache.layout.extend(cache.layout.allocate((), ()).slot, 0, 80)
    with torch.inference_mode():
        turns.loop.begin([work], [StepInput(0, 9, (1,), 1)], kind, made.runner._generator)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(5):
                turns.runs[kind]()
        finally:
            torch.cuda.set_sync_debug_mode("default")
