"""What cannot be served is said in one sentence before any weight is read, whatever the configuration holds."""

from __future__ import annotations

import dataclasses

import pytest
import transformers as hf

from adasd.config import EngineConfig
from adasd.engine.forward.miniature import miniature
from adasd.engine.forward.trial import way_of
from adasd.engine.loading.inspection import check_model
from adasd.engine.loading.memory import check_room, memory_estimate
from adasd.errors import ConfigError
from tests.unit.engine.zoo import ZOO

SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
GROWING = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 40}
GROWING |= {"short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
PLAIN = {"rope_type": "default", "rope_theta": 1e4}


def check(config, folder, **settings):
    """``check_model`` on a folder that holds the configuration and nothing else."""
    config.save_pretrained(folder)
    return check_model(EngineConfig(str(folder), **{"device": "cpu"} | settings))


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (hf.T5Config(), "t5 is an encoder-decoder model"),
        (hf.BartConfig(), "encoder-decoder"),
        (hf.MambaConfig(), "layers of type linear_attention, whose state"),
        (hf.Mamba2Config(), "layers of type linear_attention, whose state"),
        (hf.RwkvConfig(), "recurrent layers, whose state"),
        (hf.FalconH1Config(), "layers of type hybrid, whose state"),
        (hf.BambaConfig(), "whose state cannot be rolled back"),
        (hf.Qwen3NextConfig(), "layers of type linear_attention"),
        (hf.Lfm2Config(layer_types=["conv"] * 31 + ["full_attention"]), "layers of type conv"),
        (hf.RecurrentGemmaConfig(), "layers of type linear_attention, whose state"),
        (hf.ViTConfig(), "no causal language model"),
        (hf.CLIPConfig(), "no causal language model"),
        (hf.BertConfig(), "does not compute the same"),
        (hf.DeepseekV32Config(), "layers of type indexed_attention"),
        (
            hf.Gemma3TextConfig(
                **SMALL,
                num_key_value_heads=2,
                head_dim=16,
                sliding_window=16,
                layer_types=["sliding_attention", "full_attention"],
                rope_parameters={"sliding_attention": PLAIN, "full_attention": GROWING},
                max_position_embeddings=160,
            ),
            "set max_context to 40 or less",
        ),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_what_is_not_served_is_refused_with_the_reason(config, reason, tmp_path):
    with pytest.raises(ConfigError, match=reason) as caught:
        check(config, tmp_path, max_context=100)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt-oss", "deepseek-v3", "gemma4", "bloom", "mistral3"])
def test_what_is_served_is_found_to_be_by_its_configuration_alone(name, tmp_path):
    check(ZOO[name](), tmp_path)


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("mistral-window", "modules"),
        ("gemma2", "modules"),
        ("bloom", "own attention"),
        ("llama4-chunked", "own attention, alone"),
    ],
)
def test_the_fastest_right_way_is_taken(name, way):
    assert way_of(ZOO[name](), 160) == way


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"early_exit": True}, "early_exit is on, but .* it is none of Llama"),
        ({"compile": "on"}, "compile is on, but the kernels do not serve"),
        ({"max_context": 999}, "holds 1 to 160"),
    ],
)
def test_settings_that_a_model_does_not_support_are_refused_early(settings, reason, tmp_path):
    with pytest.raises(ConfigError, match=reason):
        check(ZOO["gemma"](), tmp_path, **settings)


def test_int8_leaves_routers_alone_and_runs(tmp_path):
    check(ZOO["phimoe"](), tmp_path, weights="int8")


def test_our_own_int8_is_for_cpus(tmp_path):
    ZOO["llama"]().save_pretrained(tmp_path)
    with pytest.raises(
        ConfigError, match=r"int8, which is for CPUs, .* run on cuda:0; on a GPU serve a checkpoint"
    ):
        check_model(EngineConfig(str(tmp_path), device="cuda:0", weights="int8"))


@pytest.mark.parametrize(
    ("quantised", "reason"),
    [
        ({"quant_method": "awq", "bits": 4}, r"quantised by awq, .*pip install 'adasd-serve\[gptq\]'"),
        ({"quant_method": "compressed-tensors"}, r"pip install 'adasd-serve\[compressed-tensors\]'"),
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True},
            r"pip install 'adasd-serve\[bitsandbytes\]'",
        ),
        ({"quant_method": "quip"}, "quantised by quip, which is not served"),
    ],
)
def test_a_quantised_checkpoint_names_the_extra_that_reads_it(quantised, reason, tmp_path):
    config = ZOO["llama"]()
    config.quantization_config = quantised
    with pytest.raises(ConfigError, match=reason):
        check(config, tmp_path)


def test_a_quantised_checkpoint_is_counted_by_its_bits(tmp_path):
    config = ZOO["llama"]()
    config.save_pretrained(tmp_path)
    full = memory_estimate(EngineConfig(str(tmp_path), device="cpu", dtype="bfloat16"))
    config.quantization_config = {"quant_method": "gptq", "bits": 4}
    config.save_pretrained(tmp_path)
    quantised = memory_estimate(EngineConfig(str(tmp_path), device="cpu", dtype="bfloat16"))
    linear = 2 * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 48)
    assert full.weights_bytes - quantised.weights_bytes == pytest.approx(linear * (2 - 4.125 / 8), abs=1)
    for method, on_cpu, on_cuda in (("compressed-tensors", True, True), ("fp8", True, False)):
        config.quantization_config = {"quant_method": method}
        config.save_pretrained(tmp_path)
        for device, unpacked in (("cpu", on_cpu), ("cuda", on_cuda)):
            settings = EngineConfig(str(tmp_path), device=device, dtype="bfloat16")
            assert (memory_estimate(settings).weights_bytes == full.weights_bytes) == unpacked, method


def test_a_model_that_a_card_has_no_room_for_is_refused_with_all_sizes_before_weights_are_read(tmp_path):
    ZOO["llama"]().save_pretrained(tmp_path)
    config = EngineConfig(str(tmp_path), device="cuda", dtype="bfloat16", max_context=100)
    least = memory_estimate(config).least_bytes
    check_room(config, least, 10 * least)
    with pytest.raises(ConfigError, match=r"2.0 GiB of reserve, but cuda has 1.0 GiB of 8.0 GiB free"):
        check_room(config, 2**30, 2**33)


@pytest.mark.parametrize("name", ZOO)
def test_the_memory_of_a_miniature_is_that_of_its_layers(name, tmp_path):
    """On the meta device, for each architecture of the zoo, also where layers differ."""
    config = ZOO[name]()
    config.save_pretrained(tmp_path)
    estimate = memory_estimate(EngineConfig(str(tmp_path), device="cpu", max_context=100, num_slots=3))
    assert estimate.weights_bytes > 0
    assert estimate.cache_bytes == 3 * estimate.bytes_per_slot
    cuda = memory_estimate(EngineConfig(str(tmp_path), device="cuda", dtype="bfloat16", max_context=100))
    assert cuda.bytes_per_slot * 2 == estimate.bytes_per_slot
    assert (estimate.reserve_bytes, cuda.reserve_bytes > 0) == (0, True)


def test_layers_of_several_shapes_are_counted_one_by_one(tmp_path):
    """Gemma 4: two local layers of 2 heads of 16 and two global ones of 32; DeepSeek: the wider of key and value."""
    ZOO["gemma4"]().save_pretrained(tmp_path / "gemma")
    ZOO["deepseek-v3"]().save_pretrained(tmp_path / "deepseek")
    settings = EngineConfig("", device="cpu", dtype="float32", max_context=10)
    gemma = memory_estimate(dataclasses.replace(settings, model=str(tmp_path / "gemma")))
    assert gemma.bytes_per_slot == 10 * 4 * 2 * (2 * 2 * 16 + 2 * 2 * 32)
    deepseek = memory_estimate(dataclasses.replace(settings, model=str(tmp_path / "deepseek")))
    assert deepseek.bytes_per_slot == 10 * 4 * 2 * 2 * 4 * 16


def test_a_miniature_keeps_what_decides_how_a_model_runs():
    config = hf.Gemma3TextConfig()
    text = miniature(config, beyond_native=False)
    assert text.layer_types == ["sliding_attention", "full_attention"]
    assert (text.head_dim, text.sliding_window, text.num_hidden_layers) == (config.head_dim, 8, 2)
    assert config.num_hidden_layers == 26, "the original is left as it was"
