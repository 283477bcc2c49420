"""Weight-only int8: rounded as stated, smaller, close to the full model, and only where supported."""

import copy

import pytest
import torch
from torch import nn

from adasd.config import EngineConfig
from adasd.engine.engine import TorchEngine
from adasd.engine.forward.int8 import GROUP, Int8Linear, is_int8, round_weights
from adasd.engine.loading.checkpoint import load_tokenizer
from adasd.engine.loading.memory import memory_estimate
from adasd.engine.loading.model import load_model
from adasd.errors import ConfigError
from adasd.testing.loops import plain
from load_tests.demo_prompts import examples
from tests.unit.engine.models import engine, generate, original, prompts
from tests.unit.engine.rounded import rounded_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("int8")
    copy.deepcopy(original("llama-biased")).save_pretrained(folder)
    return str(folder)


def weight_of(layer):
    """[N, K]"""
    in_steps = layer.weight_NGE.double() * layer.steps_NG[..., None]
    return in_steps.flatten(1)[:, : layer.in_features] * layer.scale_N[:, None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("num_tokens", [1, 4, 5, 40])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("inputs", "outputs"), [(24, 17), (32, 96), (160, 64), (64, 40), (48, 64)])
def test_a_layer_computes_with_its_rounded_weights(dtype, num_tokens, bias, inputs, outputs):
    torch.manual_seed(0)
    linear = nn.Linear(inputs, outputs, bias=bias).to(dtype)
    layer, x = Int8Linear(linear), torch.randn(1, num_tokens, inputs).to(dtype)
    expected = x.double() @ weight_of(layer).t() + (linear.bias.double() if bias else 0.0)
    with torch.inference_mode():
        torch.testing.assert_close(
            layer(x).double(), expected, rtol=2e-2, atol=1e-5 if dtype == torch.float32 else 3e-2
        )
    assert layer(x).dtype == dtype
    assert layer(x).shape == (1, num_tokens, outputs)


def test_no_weight_is_off_by_more_than_half_a_step_of_its_group():
    torch.manual_seed(0)
    linear = nn.Linear(80, 32)  # two groups and a half
    with torch.no_grad():
        linear.weight[3] *= 1e4  # one much larger row
        linear.weight[4, :32] *= 1e4  # one much larger group
        linear.weight[5] = 0.0
    layer, weight = Int8Linear(linear), linear.weight.detach()
    of_row = weight.abs().amax(dim=1, keepdim=True) / 127
    of_group = (
        torch.cat([part.abs().amax(1, True).expand_as(part) for part in weight.split(GROUP, 1)], 1) / 127
    )
    off = (weight_of(layer) - weight).abs()
    assert bool((off <= 0.5001 * (of_group + of_row / 127)).all()), "a group's step is rounded up"
    assert bool(torch.isfinite(layer.scale_N).all())
    assert layer.weight_NGE.shape == (32, 3, GROUP)
    assert layer.weight_NGE[:, 2, 16:].count_nonzero() == 0


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt-neox", "gemma"])
def test_the_engine_answers_as_the_rounded_model_itself_does(name):
    model = rounded_model(name)
    config = EngineConfig("tiny", num_slots=2, compile="off")  # the kernels round activations, too
    found = TorchEngine.from_model(copy.deepcopy(model), config, seed=0)
    (prompt,) = prompts(12)
    ids = torch.tensor([prompt])
    own = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False, pad_token_id=0
    )
    assert plain(found, prompt, 20) == own[0, 12:].tolist()
    assert "modules" in found.forward.name


def test_the_rounded_model_is_another_one_but_mostly_chooses_alike():
    model, full = rounded_model("llama"), original("llama")
    ids = torch.tensor(prompts(*[60] * 8))
    with torch.inference_mode():
        ours, theirs = model(ids).logits, full(ids).logits
    assert not torch.equal(ours, theirs)
    agreement = (ours.argmax(-1) == theirs.argmax(-1)).float().mean()
    assert agreement > 0.9


def test_the_rounded_demo_target_chooses_as_the_full_one_at_nearly_every_position():
    full = load_model(EngineConfig("models/demo/target", device="cpu"))
    model = load_model(EngineConfig("models/demo/target", device="cpu", weights="int8"))
    tokenizer = load_tokenizer("models/demo/target")
    text = "\n".join(example.prompt + " " + example.answer for example in examples(12))
    ids = torch.tensor([tokenizer(text)["input_ids"]])[:, :400]
    with torch.inference_mode():
        agreement = (model(ids).logits.argmax(-1) == full(ids).logits.argmax(-1)).float().mean()
    assert agreement > 0.95


@pytest.mark.parametrize("name", ["llama-biased", "qwen3"])
def test_the_embedding_and_the_norms_keep_their_numbers_also_under_a_shared_head(name):
    model, full = rounded_model(name), original(name)
    kept = dict(model.named_parameters())
    assert {"model.embed_tokens.weight", "model.norm.weight"} <= set(kept)
    assert not any("_proj" in name or "lm_head" in name for name in kept)
    assert all(torch.equal(value, full.get_parameter(name)) for name, value in kept.items())
    assert type(model.lm_head) is Int8Linear


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_is_loaded_so_and_takes_the_memory_that_was_foretold(folder, dtype):
    config = EngineConfig(folder, device="cpu", dtype=dtype, weights="int8", num_slots=2)
    told = []
    model = load_model(config, lambda what, _: told.append(what))
    assert any("int8" in what and "another model" in what for what in told)
    assert is_int8(model)
    tensors = [*model.parameters(), *(b for n, b in model.named_buffers() if "_proj" in n or "lm_head" in n)]
    taken = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    full = memory_estimate(EngineConfig(folder, device="cpu", dtype=dtype, num_slots=2))
    assert memory_estimate(config).weights_bytes == taken < 0.8 * full.weights_bytes
    assert len(plain(TorchEngine.from_model(model, config), (1, 2, 3), 10)) == 10


def test_a_deterministic_engine_takes_rounded_weights_token_by_token():
    (prompt,) = prompts(10)
    config = EngineConfig("tiny", num_slots=2, deterministic=True)
    found = TorchEngine.from_model(rounded_model("gpt-neox"), config)
    usual = TorchEngine.from_model(rounded_model("gpt-neox"), EngineConfig("tiny"))
    assert plain(found, prompt, 8) == plain(usual, prompt, 8)
    assert "token by token" in found.forward.name


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"early_exit": True}, "early_exit is on, .* cannot draft for itself: its weights are int8"),
    ],
)
def test_what_needs_the_full_weights_is_refused_with_the_reason(settings, reason):
    with pytest.raises(ConfigError, match=reason):
        TorchEngine.from_model(rounded_model("llama"), EngineConfig("tiny", **settings))


def test_a_model_without_linear_layers_is_refused():
    with pytest.raises(ConfigError, match="no linear layers to round"):
        round_weights(copy.deepcopy(original("gpt2")))


def test_full_weights_are_left_alone(folder):
    assert not is_int8(load_model(EngineConfig(folder, device="cpu")))
    assert plain(engine("llama"), (1, 2, 3), 5) == generate("llama", (1, 2, 3), 5)
