"""Two ranks compute what one process computes: logits, text with speculation, and the bytes of the cache.

The last test ends rank 1, so it stays the last.
"""

from __future__ import annotations

import os
import queue
import signal
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from adasd.config import EngineConfig
from adasd.engine.engine import TorchEngine
from adasd.engine.forward.batch import ForwardBatch
from adasd.engine.parallel.leader import Leading
from adasd.engine.work import StepInput
from adasd.errors import RankLost
from adasd.rounds import OpenCall, StopRule, VerifyCall
from adasd.testing.contracts import CLAIMS
from adasd.testing.loops import GREEDY, plain_batch, run_until_idle, speculative
from tests.unit.engine.models import GRAMMARS, original, prompts
from tests.unit.engine.parallel.ranks import OtherRank, held
from tests.unit.engine.zoo import ZOO

SIXTEEN_PAGES = 16 * 16  # positions
DTYPE_BYTES = 4


@pytest.fixture(scope="module")
def other() -> Iterator[OtherRank]:
    rank = OtherRank()
    yield rank
    rank.end()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Makes the folder of a tiny model, once."""
    made = {}

    def of(name: str):
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            whole(name).save_pretrained(made[name])
        return made[name]

    return of


def whole(name: str):
    if name != "olmo2":
        return original(name)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(ZOO[name]()).eval()


def alone(folder, **settings) -> TorchEngine:
    """The model in one process."""
    return TorchEngine.from_model(
        AutoModelForCausalLM.from_pretrained(folder),
        EngineConfig("tiny", compile="off", **{"num_slots": 8, "prefill_chunk": 40, **settings}),
        seed=0,
        grammars=GRAMMARS,
    )


def logits(engine: TorchEngine) -> torch.Tensor:
    """Of two prompts that are fed in parts."""
    first, second = prompts(30, 11)
    layout = engine.cache.layout
    slots = [layout.allocate((), ()).slot for _ in range(2)]
    for slot in slots:
        layout.extend(slot, 0, 30)
    parts = [
        [StepInput(slots[1], 0, second[:10], 10), StepInput(slots[0], 0, first[:20], 20)],
        [StepInput(slots[1], 10, second[10:], 1), StepInput(slots[0], 20, first[20:], 10)],
    ]
    found = []
    with torch.inference_mode():
        for inputs in parts:
            inputs.sort(key=lambda one: one.attention_order)
            found.append(engine.forward(ForwardBatch(inputs, layout, engine.forward.device), engine.cache))
    for slot in slots:
        layout.free(slot, [])
    return torch.cat(found)


@pytest.mark.parametrize(
    ("name", "cache"),
    [
        ("llama", "contiguous"),
        ("llama", "paged"),
        ("llama-biased", "contiguous"),
        ("qwen2", "paged"),
        ("qwen3", "contiguous"),
        ("gemma3-window", "paged"),
        ("olmo2", "paged"),
    ],
)
def test_two_ranks_compute_the_logits_of_one_process(name, cache, folder, other):
    """Within 1e-5 of the largest one, and so the same greedy text."""
    one = alone(folder(name), cache=cache)
    with other.engine(folder(name), cache=cache) as engine:
        found, expected = logits(engine), logits(one)
        assert engine.forward.name.endswith("2 ranks")
        assert engine.forward.layers[0].kv_heads == (2 if name == "olmo2" else 1)  # of 2
        texts = [plain_batch(each, prompts(3, 50, 1), 8) for each in (engine, one)]
    assert float((found - expected).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max()))
    assert texts[0] == texts[1]


@pytest.mark.parametrize(("name", "cache"), [("llama", "paged"), ("qwen2", "contiguous"), ("olmo2", "paged")])
def test_fifty_prompts_with_speculation_give_the_text_of_one_process(name, cache, folder, other):
    """The draft is another tiny model, so most blocks are rejected somewhere and rolled back on all ranks."""
    lengths = [1 + 7 * i % 60 for i in range(50)]
    texts = prompts(*lengths)
    one = alone(folder(name), cache=cache)
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        unsure = AutoModelForCausalLM.from_pretrained(folder(name))
        for parameter in unsure.parameters():
            parameter += 0.05 * parameter.std() * torch.randn(parameter.shape, generator=noise)
    draft = TorchEngine.from_model(unsure, EngineConfig("tiny", num_slots=1), seed=0)
    with other.engine(folder(name), cache=cache) as engine:
        runs = [speculative(draft, engine, text, 10, StopRule(max_tokens=4)) for text in texts]
    answers, accepted = zip(*runs, strict=True)
    assert list(answers) == [plain_batch(one, [text], 10)[0] for text in texts]
    per_round = [number for rounds in accepted for number in rounds]
    assert 0 in per_round
    assert 4 in per_round


def test_the_cache_of_all_ranks_is_the_same_after_sharing_copies_and_preemption(folder, other):
    """OLMo 2 keeps all heads on every rank, so the caches must be equal bit for bit, stale places included."""
    path = folder("olmo2")
    per_token = sum(layer.values_per_token for layer in alone(path).forward.layers) * DTYPE_BYTES
    shared = prompts(37)[0]
    texts = [(*shared, *tail) for tail in prompts(*range(5, 45, 4))]
    settings = {
        "cache": "paged",
        "cache_bytes": SIXTEEN_PAGES * per_token,
        "max_context": 128,
        "num_slots": 10,
    }
    with other.engine(path, **settings) as engine:
        found = plain_batch(engine, texts, 20)
        assert engine._rooms.num_preempted > 0
        assert engine.prefix_stats.num_hits > 0
        engine.check_integrity()
        ours = held(engine.cache)
    for layer, theirs in zip(ours, other.cache, strict=True):
        np.testing.assert_array_equal(layer, theirs)
    assert found == plain_batch(alone(path, num_slots=10), texts, 20)


def test_batch_invariant_ranks(folder, other):
    """Each token in a pass of its own: a session's logits do not depend on the others, bit for bit."""
    with other.engine(folder("llama"), deterministic=True) as engine:
        assert engine.forward.batch_invariant
        together = plain_batch(engine, prompts(3, 20, 9), 5)
        assert together == [plain_batch(engine, [text], 5)[0] for text in prompts(3, 20, 9)]


def test_the_engine_keeps_its_contract(folder, other):
    with other.engine(folder("llama"), num_slots=4, cache="paged", prefix_cache=False) as engine:
        engine._grammars = GRAMMARS
        for claim in CLAIMS:
            claim(engine)
            engine.check_integrity()
            assert (engine.num_free_slots, engine.num_pending) == (4, 0), claim.__name__


def test_a_pass_that_fails_on_rank_0_ends_the_engine(folder):
    """The ranks stopped at different places, so there is no repeating it in halves."""
    engine, sent = alone(folder("llama")), []
    silent = SimpleNamespace(send=sent.append, lost=None)
    engine.runner.forward = Leading(engine.forward, silent, 2)
    engine.runner.forward.inner.logits_at = None
    for session in "ab":
        engine.open(OpenCall(session, GREEDY, 20))
        engine.submit(VerifyCall(session, 0, 0, (1, 2, 3)))
    with pytest.raises(RankLost, match="the pass failed on rank 0"):
        engine.step()
    assert len(sent) == 1


def test_a_rank_that_is_killed_ends_the_engine_at_once(folder, other):
    losses: queue.SimpleQueue[str] = queue.SimpleQueue()
    with other.engine(folder("llama"), losses.put, ends=True) as engine:
        engine.open(OpenCall("s", GREEDY, 20))
        engine.submit(VerifyCall("s", 0, 0, (1, 2, 3)))
        run_until_idle(engine)
        os.kill(other.pid, signal.SIGKILL)
        assert losses.get(timeout=10) == "a rank has ended by itself"
        engine.submit(VerifyCall("s", 1, 3, (4,)))
        with pytest.raises(RankLost, match="a rank has ended by itself"):
            engine.step()
