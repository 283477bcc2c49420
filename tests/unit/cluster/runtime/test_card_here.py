"""The memory of a card of this machine is asked of nvidia-smi, never of CUDA."""

import pytest
import torch

from adasd.config import EngineConfig
from cluster.runtime import preflight
from cluster.runtime.card_here import bytes_of_card_here
from services.config import ServeConfig, TierConfig


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """Puts a program called nvidia-smi, which runs these shell commands, before all others."""

    def install(commands):
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{commands}\n")
        program.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return install


@pytest.mark.parametrize(
    ("commands", "mib"),
    [("echo 143771; echo 81559", 143771), ("echo '[N/A]'", None), ("exit 9", None), ("true", None)],
)
def test_the_first_card_counts_and_whatever_else_is_said_means_none(commands, mib, smi):
    smi(commands)
    assert bytes_of_card_here() == (None if mib is None else mib * 2**20)


def test_without_the_tool_there_is_no_card(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert bytes_of_card_here() is None


def test_a_card_whose_kind_nobody_named_is_taken_for_the_one_here_without_touching_cuda(smi, monkeypatch):
    def touched(*_):
        raise AssertionError("a CUDA context would stay in this process")

    for name in ("is_available", "get_device_properties", "mem_get_info"):
        monkeypatch.setattr(torch.cuda, name, touched)
    smi("echo 40960")
    tiers = [TierConfig(EngineConfig("m", device="cuda"), num_gpus=1) for _ in range(2)]
    assert [card.num_bytes for card in preflight.cards(ServeConfig(*tiers))] == [40 * 2**30] * 2
