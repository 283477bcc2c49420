"""The examples of README.md run as written."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from cluster.data import DEMO
from services import settings
from tests.unit.gateway.conftest import opened
from tests.unit.gateway.fake_backend import FakeBackend

ROOT = Path(__file__).resolve().parents[3]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def run(source: str) -> None:
    """Execute one example."""
    exec(compile(source, "README.md", "exec"), {})


def test_the_library_example(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (source,) = (block for block in blocks("python") if "LocalPair" in block)
    monkeypatch.chdir(ROOT)
    run(source)
    assert re.search(r"\d+ of \d+ drafted tokens accepted", capsys.readouterr().out)


async def test_the_client_example(capsys: pytest.CaptureFixture[str]) -> None:
    (source,) = (block for block in blocks("python") if "OpenAI" in block)
    async with opened(FakeBackend()) as door:
        there = source.replace("http://127.0.0.1:8000", door.address).replace("adasd-demo", "fake-model")
        await asyncio.to_thread(run, there)
    assert "Give me linear" in capsys.readouterr().out


async def test_the_request_example() -> None:
    path, body = re.findall(r"curl http://127\.0\.0\.1:8000(\S+) -H \S+ \S+ -d '(.*?)'", README, re.DOTALL)[0]
    async with opened(FakeBackend()) as door:
        answer: Any = await door.post(path, json.loads(body))
    assert answer.json()["speculation"]["mode"] == "adaptive"
    assert answer.json()["metrics"]["adasd"]


def test_the_configuration_example(tmp_path: Path) -> None:
    (text,) = blocks("yaml")
    (tmp_path / "pair.yaml").write_text(text)
    config = settings.load({}, {}, tmp_path / "pair.yaml", demo=DEMO)
    assert dict(config.target.label_selector) == {"pool": "target"}
