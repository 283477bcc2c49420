"""Loading from folders: what is read, and one clear sentence for each error."""

import copy
import dataclasses
import json
import shutil

import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file
from tokenizers import models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast, Qwen3NextConfig, T5Config

from adasd.config import EngineConfig
from adasd.engine.cache.pages import Pages
from adasd.engine.engine import TorchEngine
from adasd.engine.loading.checkpoint import load_tokenizer
from adasd.engine.loading.context import resolve_max_context
from adasd.engine.loading.limits import check_architecture, resolve_device, resolve_dtype
from adasd.engine.loading.memory import memory_estimate
from adasd.engine.loading.model import load_model
from adasd.engine.loading.vocabulary import check_vocabularies
from adasd.errors import ConfigError
from adasd.testing.loops import plain
from adasd.text.tokenizer import Tokenizer
from tests.unit.engine.models import CONFIGS, VOCAB_SIZE, generate, original


def save_tokenizer(folder, words):
    tokenizer = tokenizers.Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[0])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=words[0]).save_pretrained(folder)


WORDS = [f"w{i}" for i in range(90)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "llama"
    copy.deepcopy(original("llama")).save_pretrained(folder)
    save_tokenizer(folder, WORDS)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_an_engine_comes_out_of_a_folder_and_tells_its_progress(saved):
    told = []
    engine = TorchEngine.from_config(
        EngineConfig(str(saved), device="cpu", num_slots=2), lambda what, share: told.append((what, share))
    )
    assert plain(engine, (1, 2, 3), 10) == generate("llama", (1, 2, 3), 10)
    assert engine.max_context == 160
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert any("weights" in what for what, _ in told)


def test_the_tokenizer_is_the_folder_s_own(saved):
    assert load_tokenizer(str(saved)).get_vocab() == {word: i for i, word in enumerate(WORDS)}


def test_a_folder_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match=r"no model folder \./nowhere/model"):
        load_model(EngineConfig("./nowhere/model"))


def test_a_truncated_weight_file_is_named_with_both_sizes(folder):
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=rf"has {len(whole) // 2} bytes, its header says {len(whole)}"):
        load_model(EngineConfig(str(folder)))
    file.write_bytes(b"\xff" * 20)
    with pytest.raises(ConfigError, match=r"model.safetensors is damaged"):
        load_model(EngineConfig(str(folder)))


def test_missing_weights_are_an_error_and_not_random_numbers(folder):
    edit_config(folder, num_hidden_layers=3)
    with pytest.raises(ConfigError, match=r"tensors are missing.*layers\.2"):
        load_model(EngineConfig(str(folder)))
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"model holds no \*\.safetensors file.*copy them"):
        load_model(EngineConfig(str(folder)))


def test_weights_in_another_format_are_not_read_and_said_to_be(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"no \*\.safetensors file.*convert them"):
        load_model(EngineConfig(str(folder)))


def test_files_that_are_no_safetensors_are_named_with_what_they_are(folder):
    file = folder / "model.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(ConfigError, match=r"model\.safetensors is damaged: .* Git LFS \(git lfs pull"):
        load_model(EngineConfig(str(folder)))
    for content in (b"", b"PK\x03\x04" + b"x" * 400):
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=f"model.safetensors is damaged: its {len(content)} bytes"):
            load_model(EngineConfig(str(folder)))


@pytest.fixture
def sharded(tmp_path):
    copy.deepcopy(original("llama")).save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(sorted(tmp_path.glob("*.safetensors"))) > 2
    return tmp_path


def test_weights_in_several_files_need_all_of_them(sharded):
    assert load_model(EngineConfig(str(sharded))).num_parameters() == original("llama").num_parameters()
    second = sorted(sharded.glob("*.safetensors"))[1]
    second.unlink()
    with pytest.raises(ConfigError, match=rf"{second} is missing, and 1 of the \d files"):
        load_model(EngineConfig(str(sharded)))


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": 3}'])
def test_an_index_that_is_none_is_named(sharded, text):
    (sharded / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ConfigError, match=r"index\.json is damaged: .* copy it again"):
        load_model(EngineConfig(str(sharded)))


@pytest.mark.parametrize(
    ("weights", "config", "reason"),
    [
        ("llama", "gpt-neox", r"GPTNeoXForCausalLM.*tensors are missing, for example gpt_neox"),
        ("llama", "qwen2", r"Qwen2ForCausalLM.*tensors are missing, for example .*bias"),
        ("qwen3", "llama", r"LlamaForCausalLM.*tensors have another shape, for example .*_proj\.weight"),
    ],
)
def test_weights_of_another_architecture_are_refused_by_name(tmp_path, weights, config, reason):
    copy.deepcopy(original(weights)).save_pretrained(tmp_path)
    CONFIGS[config]().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=rf"do not fit its config\.json \({reason}.*the same model"):
        load_model(EngineConfig(str(tmp_path)))


def test_tensors_that_the_model_would_leave_out_of_its_layers_are_refused(tmp_path):
    """The other weights fit, so it would run as a different model: here without its biases."""
    copy.deepcopy(original("qwen2")).save_pretrained(tmp_path)
    CONFIGS["llama"]().save_pretrained(tmp_path)
    with pytest.raises(
        ConfigError, match=r"6 tensors are unknown to the model.*layers\.0\.self_attn\.k_proj\.bias"
    ):
        load_model(EngineConfig(str(tmp_path)))


def test_tensors_beside_the_layers_may_be_left_over(folder):
    file = folder / "model.safetensors"
    more = {"model.layers.2.mtp.weight": torch.ones(3), "vision.blocks.0.weight": torch.ones(3)}
    save_file(load_file(file) | more, file, metadata={"format": "pt"})
    engine = TorchEngine.from_model(load_model(EngineConfig(str(folder))), EngineConfig("tiny", num_slots=1))
    assert plain(engine, (1, 2, 3), 10) == generate("llama", (1, 2, 3), 10)


@pytest.mark.parametrize("load", [load_tokenizer, Tokenizer.load])
def test_a_tokenizer_that_is_missing_or_damaged_is_named_with_what_to_do(folder, load):
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigError, match=r"tokenizer.*model/tokenizer\.json is not JSON: copy it again"):
        load(str(folder))
    for file in folder.glob("token*"):
        file.unlink()
    with pytest.raises(ConfigError, match=r"tokenizer.*model/tokenizer\.json is missing: copy it") as caught:
        load(str(folder))
    assert "\n" not in str(caught.value)


def test_a_missing_configuration_is_named(folder):
    (folder / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"model/config\.json is missing: copy it"):
        load_model(EngineConfig(str(folder)))


@pytest.mark.parametrize("text", ['{"model_type": "no-such-model"}', "{", "[]"])
def test_a_configuration_that_makes_no_sense_is_refused(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"configuration of .* cannot be read"):
        load_model(EngineConfig(str(folder)))


def test_code_that_ships_with_a_model_is_not_run_by_itself(folder):
    edit_config(
        folder,
        model_type="custom",
        auto_map={"AutoConfig": "custom.Config", "AutoModelForCausalLM": "custom.Model"},
    )
    (folder / "custom.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_model(EngineConfig(str(folder)))


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (T5Config(), "encoder-decoder"),
        (Qwen3NextConfig(num_hidden_layers=4), "linear_attention"),
        (
            LlamaConfig(
                rope_parameters={
                    "rope_type": "dynamic",
                    "rope_theta": 1e4,
                    "factor": 2.0,
                    "original_max_position_embeddings": 64,
                }
            ),
            "max_context to 64 or less",
        ),
    ],
)
def test_architectures_whose_state_cannot_be_rolled_back_are_refused(config, reason):
    with pytest.raises(ConfigError, match=reason):
        check_architecture(config, 100)


def test_the_context_is_the_model_s_own_unless_asked_for_less():
    config = LlamaConfig(max_position_embeddings=9000)
    assert (resolve_max_context(config, None), resolve_max_context(config, 8000)) == (9000, 8000)
    with pytest.raises(ConfigError, match="max_context is 9001, but the model's context holds 1 to 9000"):
        resolve_max_context(config, 9001)


def test_formats_and_devices_that_do_not_exist_are_refused():
    config, cpu = LlamaConfig(), torch.device("cpu")
    assert resolve_dtype("auto", cpu, config) is torch.float32
    assert resolve_dtype("bfloat16", cpu, config) is torch.bfloat16
    with pytest.raises(ConfigError, match="dtype 'int8'"):
        resolve_dtype("int8", cpu, config)
    for device in ("tpu", "cuda:99", "meta"):
        with pytest.raises(ConfigError, match=device):
            resolve_device(device)


def test_the_memory_estimate_is_what_the_engine_then_takes(saved):
    config = EngineConfig(str(saved), device="cpu", num_slots=3, max_context=50)
    estimate = memory_estimate(config)
    model = load_model(config)
    assert estimate.weights_bytes == sum(p.numel() * p.element_size() for p in model.parameters())
    engine = TorchEngine.from_model(model, config)
    assert estimate.bytes_per_slot == engine.cache.bytes_per_slot == 2 * 2 * 2 * 8 * 4 * 50
    assert estimate.total_bytes == estimate.weights_bytes + 3 * estimate.bytes_per_slot
    half = memory_estimate(
        EngineConfig(str(saved), device="cpu", dtype="bfloat16", num_slots=3, max_context=50)
    )
    assert half.weights_bytes * 2 == estimate.weights_bytes
    assert half.bytes_per_slot == estimate.bytes_per_slot  # the kernels compute in float32
    tight = memory_estimate(dataclasses.replace(config, cache_bytes=2 * estimate.bytes_per_slot + 1))
    assert (tight.num_slots, tight.cache_bytes) == (2, 2 * estimate.bytes_per_slot)


@pytest.mark.parametrize("cache", ["paged", "contiguous"])
@pytest.mark.parametrize("cache_bytes", [None, 40_000])
@pytest.mark.parametrize("max_context", [None, 50])
def test_the_estimate_of_a_cache_is_the_cache_that_the_engine_makes(saved, cache, cache_bytes, max_context):
    config = EngineConfig(
        str(saved), device="cpu", num_slots=3, cache=cache, cache_bytes=cache_bytes, max_context=max_context
    )
    estimate, engine = memory_estimate(config), TorchEngine.from_config(config)
    places = engine.cache.layout.num_places
    if isinstance(layout := engine.cache.layout, Pages):
        places = layout.num_pages * layout.page_size
    per_token = 2 * 2 * 2 * 8 * 4
    assert estimate.max_context == engine.max_context
    assert estimate.num_slots == engine.num_slots
    assert abs(places * per_token - estimate.cache_bytes) < 3 * 16 * per_token, "whole pages"


def test_a_pair_shares_the_ids_that_both_embeddings_have(saved, folder):
    assert check_vocabularies(str(saved), str(folder)) == VOCAB_SIZE
    edit_config(folder, vocab_size=91)
    assert check_vocabularies(str(saved), str(folder)) == 91
    edit_config(folder, vocab_size=80)
    with pytest.raises(ConfigError, match=r"ids up to 89.* 97 rows and the draft's 80"):
        check_vocabularies(str(saved), str(folder))


def test_a_pair_of_different_vocabularies_is_refused_with_both_sizes(saved, folder):
    save_tokenizer(folder, WORDS[:60])
    with pytest.raises(ConfigError, match=r"90 tokens, the draft's 60.*'w60' is id 60 .* missing"):
        check_vocabularies(str(saved), str(folder))
    save_tokenizer(folder, [*WORDS[:-2], WORDS[-1], WORDS[-2]])
    with pytest.raises(ConfigError, match="'w88' is id 88 on the target and id 89 on the draft"):
        check_vocabularies(str(saved), str(folder))
