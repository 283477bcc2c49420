"""The three commands, one after the other, on a model of a few thousand weights."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from adasd.demo import demo_tokenizer, enlarge, evaluate, train
from adasd.demo.train import stop_signal

TINY = ["--width", "32", "--layers", "1", "--tokens", "6000"]


def test_train_evaluate_and_enlarge_follow_each_other(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_tokenizer, "train", lambda: tokenizer)
    monkeypatch.setattr(evaluate, "MAX_NEW_TOKENS", 6)
    for role in ("target", "draft"):
        folders = ["--out", str(tmp_path / role), "--work-dir", str(tmp_path / "work")]
        assert train.main(["--role", role, *TINY, *folders]) == 0

    pair = ["--target", str(tmp_path / "target"), "--draft", str(tmp_path / "draft")]
    assert evaluate.main([*pair, "--n", "1", "--json", str(tmp_path / "scores.json")]) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert [task["task"] for task in scores["tasks"]] == ["arithmetic", "function", "story", "extraction"]
    assert 0 <= scores["accepted_share"] <= 1

    model, larger = ["--model", str(tmp_path / "target")], tmp_path / "larger"
    assert enlarge.main([*model, "--factor", "2", "--extra-layers", "1", "--out", str(larger)]) == 0
    loaded = AutoModelForCausalLM.from_pretrained(larger)
    assert loaded.config.hidden_size == 64
    assert loaded.dtype == torch.float32
    assert loaded.generation_config.eos_token_id == tokenizer.eos_token_id
    assert AutoTokenizer.from_pretrained(larger).get_vocab() == tokenizer.get_vocab()


def test_a_stopped_training_says_so_and_leaves_a_checkpoint(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_tokenizer, "train", lambda: tokenizer)
    monkeypatch.setattr(train, "weighted_loss", _interrupting(train.weighted_loss))
    folders = ["--out", str(tmp_path / "model"), "--work-dir", str(tmp_path / "work")]
    assert train.main(["--role", "draft", *TINY[:4], "--tokens", "60000", *folders]) == 3
    assert (tmp_path / "work" / "draft-32x1-seed1.pt").exists()
    assert not (tmp_path / "model").exists()


def _interrupting(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def wrapped(*arguments: torch.Tensor) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGINT)
        return function(*arguments)

    return wrapped


def test_signals_are_handled_as_before_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_signal() as stopped:
        assert not stopped()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopped()
    assert signal.getsignal(signal.SIGTERM) is before
