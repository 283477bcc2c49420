"""Greedy answers of the engine are those of transformers' generate, token by token, in float32."""

import copy

import pytest
import torch

from adasd.config import EngineConfig
from adasd.engine.cache.kv_cache import KVCache
from adasd.engine.engine import TorchEngine
from adasd.engine.forward.agreement import check_agreement, reference_logits
from adasd.engine.forward.batch import ForwardBatch
from adasd.engine.forward.modules import ModuleForward
from adasd.engine.work import StepInput
from adasd.errors import ConfigError
from adasd.rounds import OpenCall, SamplingTransform, StopRule, VerifyCall
from adasd.testing.loops import GREEDY, plain, plain_batch, speculative, verify
from tests.unit.engine.models import FAST, MODULES_ONLY, engine, generate, original, prompts


@pytest.mark.parametrize("name", FAST + MODULES_ONLY)
def test_modules_agree_with_generate_in_ragged_batches(name):
    batch = prompts(3, 50, 1, 90, 17)
    assert plain_batch(engine(name, fast=False), batch, 20) == [generate(name, p, 20) for p in batch]


@pytest.mark.parametrize("compiled", ["off", "on"])
@pytest.mark.parametrize("name", FAST)
def test_the_fast_forwards_agree_with_generate(name, compiled):
    batch = prompts(3, 50, 1, 90, 17)
    fast = engine(name, fast=True, compile=compiled)
    assert plain_batch(fast, batch, 20) == [generate(name, p, 20) for p in batch]


@pytest.mark.parametrize("compiled", ["off", "on"])
@pytest.mark.parametrize("name", FAST)
def test_the_fast_forwards_agree_with_the_modules_in_every_logit(name, compiled):
    slow, fast = engine(name, fast=False), engine(name, fast=True, compile=compiled)
    rows = [
        StepInput(5, 0, tuple(range(40)), 40),
        StepInput(0, 0, (7,), 1),
        StepInput(2, 0, (1, 2, 3), 2),
        StepInput(1, 0, (9, 8), 2),
    ]
    rows.sort(key=lambda row: row.attention_order)
    again = [StepInput(row.slot, len(row.tokens), (11, 12), 2) for row in rows]
    again.sort(key=lambda row: row.attention_order)
    with torch.inference_mode():
        for step in (rows, again):
            one, other = (
                e.forward(ForwardBatch(step, e.cache.layout, e.forward.device), e.cache) for e in (slow, fast)
            )
            assert (one - other).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["llama", "gpt-neox"])
def test_prefill_in_chunks_gives_what_prefill_at_once_gives(name):
    (prompt,) = prompts(120)
    answers = {
        chunk: plain(engine(name, prefill_chunk=chunk), prompt, 10) for chunk in (1, 7, 33, 64, 119, 120, 500)
    }
    assert all(answer == generate(name, prompt, 10) for answer in answers.values()), answers


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("length", [1, 3, 8])
def test_speculation_with_a_random_draft_changes_nothing(length, fast):
    (prompt,) = prompts(12)
    tokens, _ = speculative(engine("llama", seed=1), engine("llama", fast=fast), prompt, 30, StopRule(length))
    assert tokens == generate("llama", prompt, 30)


def test_a_draft_that_is_the_target_is_always_accepted():
    (prompt,) = prompts(12)
    tokens, accepted = speculative(engine("qwen3"), engine("qwen3", fast=False), prompt, 36, StopRule(5))
    assert tokens == generate("qwen3", prompt, 36)
    assert accepted == [5] * 6


def test_a_draft_that_stops_by_entropy_changes_nothing():
    (prompt,) = prompts(12)
    rule = StopRule(8, entropy_ceiling=2.0)
    tokens, accepted = speculative(engine("llama"), engine("llama"), prompt, 30, rule)
    assert tokens == generate("llama", prompt, 30)
    assert len(set(accepted)) > 1


@pytest.mark.parametrize("length", [1, 2, 7])
def test_with_a_seed_any_block_length_gives_the_same_tokens(length):
    (prompt,) = prompts(12)
    transform = SamplingTransform(temperature=1.5, top_k=50, top_p=0.97, seed=99)
    expected = plain(engine("llama"), prompt, 30, transform)
    tokens, accepted = speculative(
        engine("llama", seed=1), engine("llama", fast=False), prompt, 30, StopRule(length), transform
    )
    assert tokens == expected
    same, all_accepted = speculative(
        engine("llama"), engine("llama"), prompt, 30, StopRule(length), transform
    )
    assert same == expected
    assert set(all_accepted) == {length}
    assert set(accepted) != {length}


def test_without_a_seed_blocks_carry_the_draft_probabilities():
    (prompt,) = prompts(12)
    rule = StopRule(4, row_len=32)
    tokens, accepted = speculative(
        engine("llama", seed=1),
        engine("llama"),
        prompt,
        40,
        rule,
        SamplingTransform(temperature=1.0, top_p=0.9),
    )
    assert len(tokens) == 40
    assert max(accepted) > 0, "a draft that is unlike the target still is accepted now and then"
    assert min(accepted) < 4


def test_a_prefix_sent_again_after_a_roll_back_gives_the_same():
    (prompt,) = prompts(60)
    expected = generate("llama", prompt, 6)
    e = engine("llama")
    e.open(OpenCall("s", GREEDY, 100))
    verify(e, VerifyCall("s", 0, 0, (*prompt[:50], 1, 2, 3, 4, 5)))
    for keep in (50, 20, 49, 1, 0):
        assert verify(e, VerifyCall("s", 1, keep, prompt[keep:])).next_token == expected[0]
    verdict = verify(e, VerifyCall("s", 2, 60, (expected[0],), tuple(expected[1:])))
    assert verdict.num_accepted == 5
    e.close("s")


def test_a_prompt_fills_the_context_to_the_last_token():
    (prompt,) = prompts(64)
    e = engine("llama", max_context=64)
    e.open(OpenCall("s", GREEDY, 64))
    assert verify(e, VerifyCall("s", 0, 0, prompt)).next_token == generate("llama", prompt, 1)[0]
    e.close("s")


def test_tokens_beyond_the_common_vocabulary_are_never_drafted():
    (prompt,) = prompts(12)
    free = plain(engine("llama"), prompt, 40)
    limit = max(free)
    limited = TorchEngine.from_model(
        copy.deepcopy(original("llama")), EngineConfig("tiny", num_slots=2), vocab_limit=limit
    )
    assert limited.vocab_size == limit
    assert max(plain(limited, prompt, 40)) < limit
    assert plain(limited, (*prompt, limit), 3), "such a token may still be fed"


def test_an_architecture_with_another_state_is_refused():
    with pytest.raises(
        ConfigError, match="layers of type linear_attention, whose state cannot be rolled back"
    ):
        engine("mamba")


def test_a_model_that_computes_something_else_over_the_cache_is_refused(monkeypatch):
    engine("llama", fast=False)  # the way to run it is known from here on
    honest = ModuleForward.__call__

    def wrong(self, batch: ForwardBatch, cache: KVCache):
        batch.positions_T.zero_()
        return honest(self, batch, cache)

    monkeypatch.setattr(ModuleForward, "__call__", wrong)
    with pytest.raises(ConfigError, match="does not compute the same"):
        engine("llama", fast=False)


def test_a_model_that_rounds_its_activations_may_differ_by_rounding_and_not_by_more():
    """As quantised checkpoints do: where a sum lies near the middle of two steps, another shape of pass decides."""

    class Rounding(ModuleForward):
        def __init__(self, model, share):
            super().__init__(model)
            self.share = share

        def __call__(self, batch, cache):
            logits = super().__call__(batch, cache)
            chance = torch.Generator().manual_seed(len(batch.ids))
            return logits + self.share * logits.std() * torch.randn(logits.shape, generator=chance)

    model = copy.deepcopy(original("llama"))
    reference = reference_logits(model)
    slight, wrong = Rounding(model, 0.02), Rounding(copy.deepcopy(original("llama")), 0.8)
    check_agreement(slight, reference, rounded=True)
    for forward, rounded in ((slight, False), (wrong, True)):
        with pytest.raises(ConfigError, match="does not compute the same"):
            check_agreement(forward, reference, rounded=rounded)
