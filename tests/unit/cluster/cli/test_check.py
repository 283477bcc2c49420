"""``adasd check`` against real (random) model folders."""

from __future__ import annotations

import io
import json
import logging
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import transformers as hf
from rich.console import Console
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from adasd.config import EngineConfig
from adasd.errors import ConfigError
from adasd.text.files import hub_answers
from cluster.cli import check as check_command
from cluster.cli.check import check, readable
from cluster.runtime.preflight import problems
from cluster.runtime.ray_cluster import check_listens
from cluster.topology import Node
from services.config import ServeConfig, TierConfig
from tests import pairs


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[Path, Path]:
    return pairs.write_pair(tmp_path_factory.mktemp("pair"))


def config(target: Path | str, draft: Path | str | None = None, **engine) -> ServeConfig:
    def tier(model: Path | str) -> TierConfig:
        return TierConfig(replace(EngineConfig(str(model), device="cpu"), **engine))

    return ServeConfig(target=tier(target), draft=None if draft is None else tier(draft))


@pytest.mark.parametrize(
    "other",
    [
        hf.MambaConfig(),
        hf.Mamba2Config(),
        hf.RwkvConfig(),
        hf.T5Config(),
        hf.FalconH1Config(),
        hf.ViTConfig(),
    ],
    ids=lambda other: other.model_type,
)
def test_a_model_of_another_kind_ends_in_a_sentence(other, pair, tmp_path):
    folder = broken_copy(pair[0], tmp_path)
    other.save_pretrained(folder)
    out = io.StringIO()
    assert check(config(folder, pair[1]), Console(file=out, width=250)) == 1
    assert out.getvalue().count("✗") == 1


def test_what_a_sentence_says_in_brackets_is_shown(pair, tmp_path):
    folder = broken_copy(pair[0], tmp_path)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({**settings, "quantization_config": {"quant_method": "gptq", "bits": 4}})
    )
    out = io.StringIO()
    check(config(folder, pair[1]), Console(file=out, width=250))
    assert "adasd-serve[gptq]" in out.getvalue()


def test_it_is_readable_on_a_narrow_terminal(pair):
    out = io.StringIO()
    check(config(*pair), Console(file=out, width=80))
    lines = out.getvalue().splitlines()
    assert any("weights" in line and line.count("MiB") == 2 for line in lines)
    assert any("replicas" in line and line.count("1-1") == 2 for line in lines)


def test_where_no_hub_is_reached_it_is_asked_once_and_every_id_gets_a_sentence(monkeypatch):
    num_asked = 0

    def unreachable(url: str, **options: object) -> None:
        nonlocal num_asked
        num_asked += 1
        raise httpx.ConnectError("no route")

    monkeypatch.setattr(httpx, "head", unreachable)
    hub_answers.cache_clear()
    found = problems(config("nowhere/at-all", "nobody/else"))
    hub_answers.cache_clear()
    assert num_asked == 1
    assert [sentence.split(":")[0] for sentence in found[:2]] == ["target", "draft"]
    assert all("try again where the hub is reached" in sentence for sentence in found)


def broken_copy(model: Path, folder: Path) -> Path:
    return Path(shutil.copytree(model, folder / "broken"))


def test_a_good_pair_has_no_problem_and_status_0(pair):
    out = io.StringIO()
    assert check(config(*pair), Console(file=out, width=250)) == 0
    text = out.getvalue()
    assert "can be served" in text
    assert str(pair[0]) in text
    assert "MiB" in text


def test_hints_of_transformers_about_what_is_tried_are_not_shown(pair):
    transformers_logging.set_verbosity_warning()
    problems(config(pair[0]))
    assert not transformers_logging.get_logger("transformers.models").isEnabledFor(logging.WARNING)


def test_plain_decoding_needs_no_draft(pair):
    assert problems(config(pair[0])) == []


def test_a_missing_folder_is_named_with_its_role_and_status_1(pair):
    out = io.StringIO()
    assert check(config(pair[0], "/no/such/folder"), Console(file=out, width=250)) == 1
    assert "draft: there is no model folder /no/such/folder" in out.getvalue()


def test_more_ranks_than_heads_and_than_cpus_are_refused(pair, monkeypatch):
    monkeypatch.setattr("cluster.runtime.preflight.os.cpu_count", lambda: 2)
    assert problems(config(pair[0], tensor_parallel=2)) == []
    heads, cpus = problems(config(pair[0], tensor_parallel=3))
    assert heads.startswith("target: tensor_parallel is 3, but LlamaForCausalLM has 2 attention heads")
    assert cpus.startswith("target: tensor_parallel is 3, but no node has more than 2 CPUs")


def test_a_folder_without_weights_is_refused(pair, tmp_path):
    folder = broken_copy(pair[0], tmp_path)
    (folder / "model.safetensors").unlink()
    (sentence,) = problems(config(folder))
    assert "holds no *.safetensors file" in sentence


def test_a_truncated_weight_file_is_refused(pair, tmp_path):
    folder = broken_copy(pair[0], tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    (sentence,) = problems(config(folder))
    assert "is damaged" in sentence


def test_an_architecture_that_cannot_be_rolled_back_is_refused(pair, tmp_path):
    folder = broken_copy(pair[0], tmp_path)
    file = folder / "config.json"
    file.write_text(json.dumps({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}))
    assert "only decoder-only language models are served" in problems(config(folder))[0]


def test_a_draft_with_another_vocabulary_is_served_with_a_word(pair, tmp_path):
    tokens = pairs.tokenizer()
    size = len(tokens)
    tokens.add_tokens(["<|new|>"])
    other = pairs.write_model(tmp_path / "other", tokens, seed=3)
    out = io.StringIO()
    assert check(config(pair[0], other), Console(file=out, width=250)) == 0
    assert f"the target's tokenizer has {size} tokens, the draft's {size + 1}" in out.getvalue()
    assert "it drafts for greedy and seeded requests only" in out.getvalue()


def test_a_draft_that_shares_hardly_a_token_is_refused(pair, tmp_path):
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(50)}, unk_token="w0"))
    other = pairs.write_model(tmp_path / "o", PreTrainedTokenizerFast(tokenizer_object=words), seed=3)
    (sentence,) = problems(config(pair[0], other))
    assert "of the draft's 50 tokens; take a draft of the target's family" in sentence


def test_padded_embeddings_are_fine(pair, tmp_path):
    tokens = pairs.tokenizer()
    padded = pairs.write_model(tmp_path / "padded", tokens, seed=3, vocab_size=len(tokens) + 24)
    assert problems(config(pair[0], padded)) == []
    assert problems(config(padded, pair[1])) == []


def test_a_context_beyond_the_models_is_refused(pair):
    found = problems(config(pair[0], max_context=10 * pairs.MAX_CONTEXT))
    assert len(found) == 1
    assert str(pairs.MAX_CONTEXT) in found[0]


def test_weights_that_do_not_fit_into_memory_are_refused(pair, monkeypatch):
    monkeypatch.setattr("os.sysconf", lambda name: 1)
    (sentence,) = problems(config(pair[0]))
    assert "choose a smaller dtype" in sentence


def test_weights_beyond_the_container_s_limit_are_refused(pair, monkeypatch):
    monkeypatch.setattr("cluster.runtime.preflight.host_bytes", lambda: 1000)
    (sentence,) = problems(config(pair[0]))
    assert "this machine or container has 0.0 GiB" in sentence


def test_bytes_are_readable():
    assert (readable(3 * 2**20), readable(5 * 2**30)) == ("3.0 MiB", "5.0 GiB")


@pytest.mark.parametrize(
    ("cards", "status", "says"),
    [(4, 0, "can be served on 10.0.0.1:6379"), (1, 1, "no node has 2 GPU, the most is 1")],
)
def test_a_running_cluster_is_asked_for_places_and_this_machine_for_nothing(monkeypatch, cards, status, says):
    nodes = [Node("10.0.0.2", {"CPU": 8.0, "GPU": float(cards)}, {})]
    monkeypatch.setattr(check_command, "nodes_of", lambda address: nodes)
    target = TierConfig(EngineConfig("/only/on/the/cluster", device="cuda", tensor_parallel=2), num_gpus=2.0)
    out = io.StringIO()
    wanted = ServeConfig(target=target, draft=None)
    assert check(wanted, Console(file=out, width=250), "10.0.0.1:6379") == status
    assert says in out.getvalue()


def test_an_address_where_nothing_listens_is_refused_at_once():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but not listening
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=rf"no Ray cluster at {address} \(Connection refused\)"):
            check_listens(address)
    check_listens("auto")
