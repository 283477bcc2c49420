"""One running server for all clients: the demo pair, with the bypass off."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from load_tests.latency.span_collector import Collector, collecting
from tests.e2e.server import ROOT, Server, running

MODEL = "adasd-demo"
TARGET = ROOT / "models" / "demo" / "target"
TOKENIZER = "adasd/demo"
"""The id under which the hub of ``hub`` serves the target's tokenizer."""


@pytest.fixture(scope="package")
def collector() -> Iterator[Collector]:
    with collecting() as started:
        yield started


@pytest.fixture(scope="package")
def server(collector: Collector) -> Iterator[Server]:
    slots = ["--target-num-slots", "8", "--draft-num-slots", "8"]
    extras = ["--traces-endpoint", collector.url, "--traces-sample", "0", "--audit-share", "1"]
    with running(*slots, *extras, "--speculation-bypass", "false", "--model-name", MODEL) as started:
        yield started


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as opened:
        yield opened


@pytest.fixture(scope="package")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face home whose cache holds TOKENIZER, for clients that accept ids but no folders."""
    home = tmp_path_factory.mktemp("hub")
    model, commit = home / "hub" / "models--adasd--demo", "1" * 40
    snapshot = model / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(commit)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(TARGET / name, snapshot)
    return home
