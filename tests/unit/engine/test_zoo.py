"""Every served architecture answers as transformers does: plainly, in batches, with blocks, beyond its window."""

import copy
from dataclasses import replace

import pytest
import torch

from adasd.config import EngineConfig
from adasd.engine.cache.layers import CacheNeeds
from adasd.engine.engine import TorchEngine
from adasd.rounds import OpenCall, SamplingTransform, VerifyCall
from adasd.testing.loops import GREEDY, plain_batch, verify
from tests.unit.engine.zoo import VOCAB_SIZE, ZOO, zoo_model

NUM_TOKENS = 8
MIXED = ("qwen3-window", "gemma2", "gemma3", "cohere2", "exaone4", "gpt-oss")
"""Some of their layers see everything, some a window, all in the same shape."""


def logits_of(model, tokens):
    with torch.no_grad():
        return model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].float()


@pytest.mark.parametrize("name", ZOO)
def test_an_architecture_answers_as_transformers_does(name):
    model = zoo_model(name)
    config = EngineConfig(name, num_slots=4, prefill_chunk=40, compile="off")
    engine = TorchEngine.from_model(copy.deepcopy(model), config, seed=0)
    generator = torch.Generator().manual_seed(1)
    prompts = [
        torch.randint(2, VOCAB_SIZE, (length,), generator=generator).tolist() for length in (5, 30, 70)
    ]

    answers = plain_batch(engine, prompts, NUM_TOKENS)
    for prompt, answer in zip(prompts, answers, strict=True):
        logits = logits_of(model, prompt + answer)[len(prompt) - 1 : -1]
        lost = logits.max(dim=-1).values - logits.gather(-1, torch.tensor(answer)[:, None])[:, 0]
        assert lost.max() < 1e-3, f"{name}: token {int(lost.argmax())} of the answer is not the likeliest"

    prompt, answer = prompts[1], answers[1]
    ids = torch.tensor([prompt])
    generated = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=NUM_TOKENS, do_sample=False
    )
    assert generated[0, len(prompt) :].tolist() == answer

    engine.open(OpenCall("session", GREEDY, 160))
    wrong = (answer[2] + 1) % VOCAB_SIZE
    verdict = verify(engine, VerifyCall("session", 0, 0, tuple(prompt), (answer[0], answer[1], wrong)))
    assert (verdict.num_accepted, verdict.next_token) == (2, answer[2])
    verdict = verify(engine, VerifyCall("session", 1, len(prompt) + 2, (answer[2],), tuple(answer[3:5])))
    assert (verdict.num_accepted, verdict.next_token) == (2, answer[5])
    engine.close("session")

    long = prompts[2] + answers[2]
    transform = SamplingTransform(temperature=0.0, answer_from=len(long))
    engine.open(OpenCall("scored", transform, 160, prompt_logprobs=0))
    scored = verify(engine, VerifyCall("scored", 0, 0, tuple(long))).prompt_logprobs
    wanted = logits_of(model, long).log_softmax(dim=-1)[:-1].gather(-1, torch.tensor(long[1:])[:, None])[:, 0]
    assert torch.allclose(torch.tensor([one.logprob for one in scored]), wanted, atol=2e-3)
    engine.close("scored")


@pytest.mark.parametrize("name", MIXED)
def test_layers_with_a_window_give_pages_back_and_the_answers_are_the_same(name):
    """Two sessions of 155 tokens take 20 pages in each table; here are 6 too few for that, and nobody is preempted."""
    model = zoo_model(name)
    config = EngineConfig(
        name, num_slots=2, prefill_chunk=16, compile="off", cache="paged", cache_bytes=10**9
    )
    layers = TorchEngine.from_model(copy.deepcopy(model), config).forward.layers
    needs = CacheNeeds.of(layers, torch.float32)
    assert len(needs.windows) > 1
    num_pages = 20 * len(needs.windows) - 6
    config = replace(config, cache_bytes=num_pages * 16 * needs.bytes_per_place)
    engine = TorchEngine.from_model(copy.deepcopy(model), config)
    assert engine.cache.layout.num_places == (num_pages + 1) * 16
    generator = torch.Generator().manual_seed(2)
    prompts = [torch.randint(2, VOCAB_SIZE, (147,), generator=generator).tolist() for _ in range(2)]
    answers = plain_batch(engine, prompts, NUM_TOKENS)
    assert engine._rooms.num_preempted == 0
    engine.check_integrity()
    for prompt, answer in zip(prompts, answers, strict=True):
        logits = logits_of(model, prompt + answer)[len(prompt) - 1 : -1]
        lost = logits.max(dim=-1).values - logits.gather(-1, torch.tensor(answer)[:, None])[:, 0]
        assert lost.max() < 1e-3, f"{name}: token {int(lost.argmax())} of the answer is not the likeliest"
