"""bfloat16 layers over packed weights, and how close a 16-bit pass must be to the model."""

import copy

import pytest
import torch
import torch.nn.functional as F

from adasd.config import EngineConfig
from adasd.engine.engine import TorchEngine
from adasd.engine.forward import fast_llama
from adasd.engine.forward.agreement import check_agreement, reference_logits
from adasd.engine.forward.fast_llama import FastLlama
from adasd.engine.forward.packed_linear import can_pack, pack, packed_linear
from adasd.engine.forward.protocol import ForwardOver
from adasd.errors import ConfigError
from adasd.testing.loops import plain_batch
from tests.unit.engine.models import original, prompts


@pytest.mark.parametrize("num_tokens", [0, 1, 2, 9, 70])
@pytest.mark.parametrize(("inputs", "outputs"), [(24, 17), (32, 96), (160, 64)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer_computes_what_the_layer_does(num_tokens, inputs, outputs, bias):
    torch.manual_seed(0)
    weight, x = torch.randn(outputs, inputs).bfloat16(), torch.randn(num_tokens, inputs).bfloat16()
    added = torch.randn(outputs).bfloat16() if bias else None
    with torch.inference_mode():
        found = packed_linear(x, pack(weight), added)
    assert (found.shape, found.dtype) == ((num_tokens, outputs), torch.bfloat16)
    exact = F.linear(x.double(), weight.double(), None if added is None else added.double())
    torch.testing.assert_close(found.double(), exact, rtol=2e-2, atol=5e-2)


def test_only_bfloat16_on_a_cpu_that_computes_in_it_is_packed(monkeypatch):
    weight = torch.ones(4, 4)
    assert not can_pack(weight)
    assert not can_pack(weight.half())
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not can_pack(weight.bfloat16())


@pytest.mark.parametrize("name", ["llama-biased", "qwen3"])
@pytest.mark.parametrize("packs", [True, False])
def test_packed_and_plain_weights_choose_alike(monkeypatch, name, packs):
    """Against the same model in float32; rounding may flip a token, and the answer then differs."""
    monkeypatch.setattr(fast_llama, "can_pack", lambda weight: packs)
    texts = prompts(9, 30, 17, 50, 4, 12, seed=3)
    model = copy.deepcopy(original(name))
    exact = TorchEngine.from_model(copy.deepcopy(model), EngineConfig("tiny", num_slots=8))
    rounded = TorchEngine.from_model(model.to(torch.bfloat16), EngineConfig("tiny", num_slots=8), fast=True)
    expected, found = plain_batch(exact, texts, 1), plain_batch(rounded, texts, 1)
    assert sum(a == b for a, b in zip(expected, found, strict=True)) >= 4


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_in_16_bits_rounding_passes_and_another_model_does_not(share):
    """Noise as a share of the logits' standard deviation; rounding in a deep model amounts to a tenth."""
    model = copy.deepcopy(original("llama")).to(torch.bfloat16)
    reference = reference_logits(model)

    class Noisy(ForwardOver):
        def __call__(self, batch, cache):
            logits = self.inner(batch, cache)
            torch.manual_seed(len(batch.ids))
            return logits + share * reference[0].std() * torch.randn(logits.shape)

    forward = Noisy(FastLlama(model, 100), "noisy")
    if share < 0.2:
        check_agreement(forward, reference)
    else:
        with pytest.raises(ConfigError, match="does not compute the same"):
            check_agreement(forward, reference)
