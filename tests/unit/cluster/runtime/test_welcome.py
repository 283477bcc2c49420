"""What ``adasd serve`` prints works as printed."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from adasd.config import EngineConfig
from adasd.demo.tasks import Task, heldout
from cluster.data import DEMO as FOLDER
from cluster.runtime import welcome as module
from cluster.runtime.welcome import own_command, url, welcome
from services.config import ApiKey, DoorTlsConfig, ServeConfig, TierConfig
from services.example_prompts import DEMO, GENERAL, examples_of

CONFIG = ServeConfig(target=TierConfig(EngineConfig(str(FOLDER / "target"))), draft=None)


def command(text: str, word: str) -> list[str]:
    return next(words for words in map(shlex.split, text.splitlines()) if words and word in words)


def test_the_page_comes_first_and_the_request_can_be_answered_and_pasted():
    text = welcome(CONFIG)
    addresses = [word for word in text.split() if word.startswith("http")]
    assert addresses[0] == "http://127.0.0.1:8000/"
    words = command(text, "curl")
    assert words[1] == "http://127.0.0.1:8000/v1/chat/completions"
    body = json.loads(words[-1])
    assert body["model"] == "adasd-demo"
    assert body["messages"][0]["content"] in DEMO
    assert "--url" not in text


def test_every_example_of_the_demo_pair_is_one_of_its_tasks():
    known = {example.prompt for task in Task for example in heldout(task, 40)}
    assert set(DEMO) <= known
    assert examples_of("Qwen/Qwen2.5-7B-Instruct") == GENERAL


def test_keys_other_ports_and_certificates_are_in_the_commands():
    key = ApiKey("anna", "0" * 64)
    text = welcome(replace(CONFIG, port=8080, grpc_port=0, api_keys=(key,), tls=DoorTlsConfig("a", "b")))
    assert command(text, "chat")[-2:] == ["--url", "https://127.0.0.1:8080"]
    assert "Authorization: Bearer $ADASD_API_KEY" in command(text, "curl")
    assert '"Authorization: Bearer $ADASD_API_KEY"' in text  # in quotes in which the shell fills it in
    assert "gRPC" not in text


def test_addresses_of_all_hosts_and_ipv6():
    assert url(replace(CONFIG, host="0.0.0.0", port=1)) == "http://127.0.0.1:1"
    assert url(replace(CONFIG, host="::1", port=1)) == "http://[::1]:1"


@pytest.mark.parametrize(
    ("found", "started", "typed"),
    [
        ("/usr/bin/adasd", "/usr/bin/adasd", "adasd"),
        (None, "/home/me/tree/.venv/bin/adasd", ".venv/bin/adasd"),
        (None, "/opt/a b/adasd", "'/opt/a b/adasd'"),
        (None, "/home/me/tree/cluster/cli/__main__.py", f"{sys.executable} -m cluster.cli"),
    ],
)
def test_the_command_is_the_one_that_this_shell_finds(found, started, typed, monkeypatch):
    monkeypatch.setattr(module.shutil, "which", lambda _: found)
    monkeypatch.setattr(module.sys, "argv", [started])
    monkeypatch.setattr(Path, "cwd", lambda: Path("/home/me/tree"))
    assert own_command() == typed
