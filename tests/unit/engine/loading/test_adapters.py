"""A LoRA adapter is merged at loading; one that does not fit is refused before weights are read."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from safetensors.torch import save_file

from adasd.config import EngineConfig
from adasd.engine.engine import TorchEngine
from adasd.engine.loading.adapters import read_adapter
from adasd.engine.loading.inspection import check_model
from adasd.engine.loading.model import load_model
from adasd.errors import ConfigError
from adasd.testing.loops import plain
from tests.unit.engine.models import original

RANK, ALPHA = 4, 16
LAYERS = ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj")


@pytest.fixture
def folder(tmp_path):
    copy.deepcopy(original("llama")).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def halves(width: int = 32) -> dict[str, torch.Tensor]:
    """The tensors that PEFT writes for an adapter of ``LAYERS``."""
    torch.manual_seed(5)
    sizes = {LAYERS[0]: (width, width), LAYERS[1]: (48, width)}
    found = {}
    for layer, (num_inputs, num_outputs) in sizes.items():
        found[f"base_model.model.{layer}.lora_A.weight"] = torch.randn(RANK, num_inputs)
        found[f"base_model.model.{layer}.lora_B.weight"] = torch.randn(num_outputs, RANK) * 0.2
    return found


def write_adapter(folder, tensors=None, **config):
    folder.mkdir(exist_ok=True)
    kept = {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": ALPHA,
        "bias": "none",
        "base_model_name_or_path": "x",
    }
    (folder / "adapter_config.json").write_text(json.dumps(kept | config))
    save_file(halves() if tensors is None else tensors, folder / "adapter_model.safetensors")
    return str(folder)


def merged(scale: float):
    """The model with the adapter added by hand."""
    model, tensors = copy.deepcopy(original("llama")), halves()
    for layer in LAYERS:
        a, b = (tensors[f"base_model.model.{layer}.lora_{end}.weight"] for end in "AB")
        with torch.no_grad():
            model.get_submodule(layer).weight += scale * b @ a
    return model


@pytest.mark.parametrize(
    ("config", "scale"),
    [({}, ALPHA / RANK), ({"use_rslora": True}, ALPHA / math.sqrt(RANK)), ({"lora_alpha": 2}, 2 / RANK)],
)
def test_an_adapter_is_merged_into_the_weights(folder, tmp_path, config, scale):
    settings = EngineConfig(
        str(folder), device="cpu", num_slots=1, adapter=write_adapter(tmp_path / "lora", **config)
    )
    expected = merged(scale)
    ids = torch.tensor([[5, 17, 3, 42]])
    wanted = expected.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False, pad_token_id=0
    )
    engine = TorchEngine.from_config(settings)
    assert plain(engine, (5, 17, 3, 42), 20) == wanted[0, 4:].tolist()


def test_an_adapter_may_scale_single_layers_differently(folder, tmp_path):
    adapter = write_adapter(tmp_path / "lora", alpha_pattern={"q_proj": 0.0, "down_proj": 0.0})
    model = load_model(EngineConfig(str(folder), device="cpu", adapter=adapter))
    assert torch.equal(
        model.model.layers[0].self_attn.q_proj.weight,
        original("llama").model.layers[0].self_attn.q_proj.weight,
    )


@pytest.mark.parametrize(
    ("patterns", "scales"),
    [
        ({r"layers\.1\..*_proj": 32}, (4, 8)),
        ({"^model.layers.0.self_attn.q_proj": 32}, (8, 4)),
        ({"q_proj|down_proj": 32}, (8, 8)),
        ({"down_proj": 8, ".*_proj": 32}, (8, 2)),  # the first that matches
        ({"proj": 32, "q_pro": 32, "model.layers": 32}, (4, 4)),  # neither a whole name nor the end of one
    ],
)
def test_the_names_in_alpha_pattern_are_regular_expressions_as_in_peft(tmp_path, patterns, scales):
    adapter = read_adapter(write_adapter(tmp_path / "lora", alpha_pattern=patterns))
    assert tuple(adapter.scale(layer) for layer in LAYERS) == scales


def test_an_adapter_of_a_head_that_is_also_the_embedding_is_refused(folder, tmp_path):
    ends = {"A": torch.ones(RANK, 32), "B": torch.ones(97, RANK)}
    tensors = {f"base_model.model.lm_head.lora_{end}.weight": value for end, value in ends.items()}
    settings = EngineConfig(str(folder), device="cpu", adapter=write_adapter(tmp_path / "lora", tensors))
    check_model(settings)  # a head of its own
    tied = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(tied))
    with pytest.raises(
        ConfigError, match=r"changes lm_head, whose weight is also that of model.embed_tokens"
    ):
        check_model(settings)


@pytest.mark.parametrize(
    ("tensors", "config", "reason"),
    [
        (
            halves(width=16),
            {},
            "belongs to another model .* changes model.layers.0.self_attn.q_proj with 16 inputs",
        ),
        (
            {key.replace("layers.1", "layers.7"): value for key, value in halves().items()},
            {},
            "belongs to another model .* model.layers.7.mlp.down_proj .* no such layer to adapt",
        ),
        ({key: value for key, value in halves().items() if "lora_A" in key}, {}, "without its other half"),
        ({"base_model.model.lm_head.weight": torch.ones(2, 2)}, {}, "no part of a LoRA adapter"),
        (None, {"peft_type": "IA3"}, "of type IA3; only plain LoRA"),
        (None, {"use_dora": True}, "with use_dora; only plain LoRA"),
        (None, {"bias": "all"}, "with biases; only plain LoRA"),
        (None, {"alpha_pattern": {"*": 1}}, r"alpha_pattern in .* cannot be used for model.layers.0"),
        (None, {"alpha_pattern": ["q_proj"]}, r"alpha_pattern in .* cannot be used for model.layers.0"),
        (None, {"lora_alpha": "much"}, r"lora_alpha or .* cannot be used for .*: could not convert"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_without_reading_weights(
    folder, tmp_path, tensors, config, reason
):
    adapter = write_adapter(tmp_path / "lora", tensors, **config)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=reason):
        check_model(EngineConfig(str(folder), device="cpu", adapter=adapter))


def test_files_of_an_adapter_that_are_missing_or_damaged_are_named(folder, tmp_path):
    settings = EngineConfig(str(folder), device="cpu", adapter=str(tmp_path / "lora"))
    with pytest.raises(ConfigError, match="no adapter folder"):
        check_model(settings)
    write_adapter(tmp_path / "lora")
    (tmp_path / "lora" / "adapter_model.safetensors").write_bytes(b"no")
    with pytest.raises(ConfigError, match=r"adapter_model.safetensors cannot be read"):
        check_model(settings)
    (tmp_path / "lora" / "adapter_config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"adapter_config.json is not JSON"):
        check_model(settings)


def test_an_adapter_in_the_place_of_a_model_or_beside_one_is_refused(folder, tmp_path):
    adapter = write_adapter(tmp_path / "lora")
    with pytest.raises(ConfigError, match=r"holds a LoRA adapter .*--target-adapter"):
        check_model(EngineConfig(adapter, device="cpu"))
    write_adapter(folder)
    with pytest.raises(ConfigError, match=r"name the model without it"):
        check_model(EngineConfig(str(folder), device="cpu"))
