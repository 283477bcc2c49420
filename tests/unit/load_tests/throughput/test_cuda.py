"""The parts of the CUDA benchmark that need no GPU: its refusal, its order, its timing."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from load_tests import record
from load_tests.throughput import batch_throughput, cuda, single_stream
from tests.unit.engine.models import CONFIGS, engine


def test_without_a_card_it_says_so_and_fails(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    commands = []
    assert cuda.main([], lambda command: commands.append(command) or 0) == cuda.NO_DEVICE != 0
    assert "no CUDA device" in capsys.readouterr().out
    assert not commands


@pytest.fixture
def pretended_card(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "ACME (TM) Card 9000")
    monkeypatch.setattr(record, "ROOT", tmp_path)
    monkeypatch.setattr(cuda, "build_pair", lambda folder: {role: folder / role for role in cuda.SHAPES})
    times = cuda.StepTimes("target", "on", "forward", 1.0, 2.0, 0.5, 10, 0.8)
    monkeypatch.setattr(cuda, "measure_steps", lambda pair, num_runs: ([times], 1e12))
    return tmp_path


def test_nothing_is_measured_if_the_tests_fail(pretended_card, capsys):
    commands = []
    assert cuda.main(["--folder", "out"], lambda command: commands.append(command) or 1) == 1
    assert [command[2] for command in commands] == ["pytest"]
    assert not (pretended_card / "out").exists()


def test_files_are_named_for_the_card(pretended_card):
    def run(command):
        if "--json" in command:
            (pretended_card / command[-1]).write_text("{}")
        return 1 if "--json" in command else 0

    assert cuda.main(["--folder", "out"], run) == 0, "a missed goal is a figure, no error"
    names = {file.name for file in (pretended_card / "out").iterdir()}
    assert names == {
        f"{name}-acme-tm-card-9000.json" for name in ("cuda", "single_stream", "batch_throughput")
    }


def test_a_benchmark_that_gave_no_figures_is_an_error(pretended_card, capsys):
    assert cuda.main(["--folder", "out"], lambda command: 0) == 1
    assert "without figures" in capsys.readouterr().out


@pytest.mark.parametrize("quick", [True, False])
def test_benchmarks_understand_what_they_are_given(tmp_path, quick):
    pair = {role: tmp_path / role for role in cuda.SHAPES}
    first, second = cuda.benchmarks(pair, tmp_path, "card", quick)
    assert single_stream.parse(first[3:]).device == "cuda"
    assert batch_throughput.parse(second[3:]).device == "cuda"


def test_what_a_token_reads_is_all_but_the_embedding(tmp_path):
    untied = LlamaConfig(**CONFIGS["llama"]().to_dict() | {"tie_word_embeddings": False})
    model = LlamaForCausalLM(untied)
    model.save_pretrained(tmp_path)
    embedding = untied.vocab_size * untied.hidden_size
    assert cuda.read_bytes(tmp_path) == 2 * (model.num_parameters() - embedding)


def test_the_pair_is_as_large_as_it_is_said_to_be():
    sizes = {}
    for role, (factor, extra_layers) in cuda.SHAPES.items():
        small = LlamaConfig.from_pretrained(record.ROOT / cuda.DEMO / role)
        width, inner = small.hidden_size * factor, small.intermediate_size * factor
        sizes[role] = (small.num_hidden_layers + extra_layers) * (4 * width**2 + 3 * width * inner)
    assert 7.5e9 < sizes["target"] < 8.5e9
    assert 5.5e8 < sizes["draft"] < 6.5e8


def test_steps_are_timed_and_every_slot_is_given_back(monkeypatch):
    monkeypatch.setattr(cuda, "PROMPT_LEN", 30)
    e = engine("llama", fast=True)
    found = cuda.step_times(e, "tiny", 10**6, 1e9, num_runs=3)
    assert e.num_free_slots == e.num_slots
    assert found.bandwidth_share == pytest.approx(1e6 / (found.decode_ms / 1e3) / 1e9)
    assert min(found.decode_ms, found.verify_ms, found.drafted_token_ms) > 0
