"""Every served architecture answers as transformers does: plainly, in batches, with blocks, beyond its window."""

import copy

import pytest
import torch

from adasd.config import EngineConfig
from adasd.engine.engine import TorchEngine
from adasd.rounds import OpenCall, SamplingTransform, VerifyCall
from adasd.testing.loops import GREEDY, plain_batch, verify
from tests.unit.engine.zoo import VOCAB_SIZE, ZOO, zoo_model

NUM_TOKENS = 8


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
