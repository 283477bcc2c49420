"""What cannot be laid over several ranks is refused in one sentence before any weight is read."""

from dataclasses import replace

import pytest
import transformers as hf

from adasd.config import EngineConfig
from adasd.engine.engine import TorchEngine
from adasd.engine.loading.inspection import check_model
from adasd.engine.parallel import sharding
from adasd.errors import ConfigError
from tests.unit.engine.zoo import ZOO


def check(name, folder, **settings):
    ZOO[name]().save_pretrained(folder)
    return check_model(
        EngineConfig(str(folder), **{"device": "cpu", "tensor_parallel": 2, "max_context": 100} | settings)
    )


@pytest.mark.parametrize(
    ("name", "settings", "reason"),
    [
        ("llama", {"tensor_parallel": 3}, "tensor_parallel is 3, but LlamaForCausalLM has 4 attention heads, which 3"),
        ("llama", {"tensor_parallel": 4}, "tensor_parallel is 4, but LlamaForCausalLM has 2 key-value heads, which 4"),
        ("gpt2", {}, "has no tensor parallel plan for GPT2LMHeadModel; set tensor_parallel to 1"),
        ("llama", {"weights": "int8"}, "tensor_parallel is 2, but weights is int8"),
        ("llama", {"early_exit": True}, "tensor_parallel is 2, but early_exit is on"),
        ("llama", {"compile": "on"}, "tensor_parallel is 2, but compile is on"),
        ("llama", {"device": "cuda:1"}, "device is cuda:1, but tensor_parallel is 2"),
    ],
)  # fmt: skip
def test_what_cannot_be_shared_is_refused(name, settings, reason, tmp_path):
    with pytest.raises(ConfigError, match=reason):
        check(name, tmp_path, **settings)


def test_adapters_and_quantised_checkpoints_are_refused():
    config = EngineConfig("m", device="cpu", tensor_parallel=2)
    llama = ZOO["llama"]()
    with pytest.raises(ConfigError, match="tensor_parallel is 2, but there is an adapter"):
        sharding.check_sharding(replace(config, adapter="lora"), llama, 100)
    llama.quantization_config = {"quant_method": "fp8"}
    with pytest.raises(ConfigError, match="tensor_parallel is 2, but the checkpoint is quantised"):
        sharding.check_sharding(config, llama, 100)


def test_a_model_that_computes_attention_by_itself_is_refused(monkeypatch):
    monkeypatch.setattr(sharding, "way_of", lambda *_: "own attention")
    with pytest.raises(
        ConfigError, match="LlamaForCausalLM is run by its own attention, which is on one rank"
    ):
        sharding.check_sharding(EngineConfig("m", device="cpu", tensor_parallel=2), ZOO["llama"](), 100)


def test_cards_need_accelerate(monkeypatch):
    monkeypatch.setattr(sharding, "find_spec", lambda name: None)
    config = EngineConfig("m", device="cuda", tensor_parallel=2)
    with pytest.raises(ConfigError, match=r"by accelerate, which is missing: pip install .*cuda"):
        sharding.check_sharding(config, ZOO["llama"](), 100)


@pytest.mark.parametrize("name", ["llama", "phi3", "mixtral"])
def test_what_can_be_shared_is_accepted(name, tmp_path):
    """Phi-3 gathers its heads, so their number does not matter."""
    num = 3 if name == "phi3" else 2
    assert isinstance(check(name, tmp_path, tensor_parallel=num), hf.PreTrainedConfig)


def test_one_process_alone_cannot_be_several_ranks(tmp_path):
    with pytest.raises(ConfigError, match="tensor_parallel is 2; in one process it is 1"):
        TorchEngine.from_config(EngineConfig(str(tmp_path), tensor_parallel=2))
