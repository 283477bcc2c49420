"""One real server for all end-to-end tests: the demo pair, or a random pair if the demo pair is not trained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests import pairs
from tests.e2e.server import ROOT, Server, running

NUM_SLOTS = 8
DEMO = ROOT / "models" / "demo"


@pytest.fixture(scope="package")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of target and draft."""
    demo = DEMO / "target", DEMO / "draft"
    if all((folder / "model.safetensors").exists() for folder in demo):
        return demo
    return pairs.write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="package")
def server(pair: tuple[Path, Path]) -> Iterator[Server]:
    target, draft = map(str, pair)
    slots = ["--target-num-slots", str(NUM_SLOTS), "--draft-num-slots", str(NUM_SLOTS)]
    always = [
        "--speculation-bypass",
        "false",
        "--max-queued-requests",
        "128",
    ]  # drafts even if it does not pay
    with running("--target", target, "--draft", draft, "--model-name", "pair", *slots, *always) as started:
        yield started


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as opened:
        yield opened
