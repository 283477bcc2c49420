"""``python -m load_tests.peers`` with contenders that are played."""

import json

import pytest

from load_tests import record
from load_tests.demo_pair import DEMO
from load_tests.peers import command
from load_tests.peers.contenders import CONTENDERS, OURS_F32
from load_tests.peers.environments import NotInstalled
from load_tests.peers.peer_process import PeerAnswer, PeerFailed
from load_tests.peers.race import same_share

MODELS = ["--model", str(DEMO / "target"), "--draft", str(DEMO / "draft")]


class Played:
    """Answers with the tokens 5, 6, 7, ... at 100 tokens per second times ``speed``."""

    def __init__(self, speed=1.0, changed=None, fails=False):
        self.speed, self.changed, self.fails, self.asked = speed, changed, fails, []

    def ask(self, prompt, max_tokens, mode=""):
        self.asked.append((len(prompt), max_tokens, mode))
        if self.fails:
            raise PeerFailed("it ended with status 1: out of memory")
        tokens = [5 + i if i != self.changed else 4 for i in range(max_tokens)]
        return PeerAnswer(tuple(tokens), max_tokens / (100 * self.speed))


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("ADASD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(record, "hardware", lambda: "abacus")

    def run(played, *words):
        def start(program):
            if program not in played:
                raise NotInstalled("there is no wheel for this machine")
            return played[program]

        return command.main([*MODELS, "--prompts", "2", "--max-tokens", "10", *words], start)

    return run


def program(name):
    return next(one.program for one in CONTENDERS if one.name == name)


def test_figures_are_over_ours_and_whoever_is_missing_is_named_with_a_reason(run, tmp_path, capsys):
    ours, fast = Played(), Played(2.0, changed=5)
    played = {OURS_F32: ours, program("llama.cpp Q8_0"): fast, program("llama.cpp F32"): Played(fails=True)}
    figures, page = tmp_path / "figures.json", tmp_path / "page.md"
    assert run(played, "--json", str(figures), "--page", str(page)) == 0
    found = {one["name"]: one for one in json.loads(figures.read_text())["results"]}
    assert list(found) == [one.name for one in CONTENDERS]
    assert found["adasd float32, off"]["tokens_per_s"] == 100.0
    assert found["llama.cpp Q8_0"]["over_ours"] == 2.0
    assert found["llama.cpp Q8_0"]["agrees"] == 0.5
    assert found["llama.cpp Q8_0"]["num_differing"] == 2
    assert found["llama.cpp F32"]["missing"] == "it ended with status 1: out of memory"
    assert found["adasd int8, off"]["missing"] == "there is no wheel for this machine"
    assert found["adasd int8, off"]["tokens_per_s"] is None
    assert {mode for _, _, mode in ours.asked} == {"off", "exact"}
    assert (512, 1, "off") in ours.asked
    assert "there is no wheel for this machine" in page.read_text()
    assert "| llama.cpp Q8_0 | 200.0 | 2.00 |" in page.read_text()


def test_other_tokens_in_float32_are_a_failure(run, capsys):
    assert run({OURS_F32: Played(), program("llama.cpp F32"): Played(changed=9)}, "--only", "F32") == 1
    assert "other tokens than ours: llama.cpp F32" in " ".join(capsys.readouterr().out.split())


def test_the_model_is_written_as_gguf_once_in_the_formats_that_are_needed(run, tmp_path):
    run({OURS_F32: Played()}, "--only", "F32", "Q8_0")
    folder = tmp_path / "cache" / "gguf"
    sizes = {file.name: file.stat() for file in folder.iterdir()}
    assert set(sizes) == {"target-f32.gguf", "target-q8.gguf"}
    assert sizes["target-q8.gguf"].st_size < 0.5 * sizes["target-f32.gguf"].st_size
    run({OURS_F32: Played()}, "--only", "F32", "Q8_0")
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == {
        name: stat.st_mtime_ns for name, stat in sizes.items()
    }


def test_a_model_without_a_draft_is_refused(capsys):
    with pytest.raises(SystemExit):
        command.main(["--model", "x"])
    assert "give both, or neither" in capsys.readouterr().err


def test_the_share_of_equal_tokens_ends_with_the_first_other_one():
    assert same_share((1, 2, 3, 4), (1, 2, 9, 4)) == 0.5
    assert same_share((1, 2), (1, 2, 3, 4)) == 0.5
    assert same_share((), ()) == 1.0
