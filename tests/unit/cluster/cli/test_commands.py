"""The registry of commands: a file is a command, packages can add some, and one sentence names a missing package."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import adasd
from cluster import cli

OWN = {"chat", "check", "completion", "eval", "k8s", "methods", "serve"}


@pytest.fixture
def bench_added(monkeypatch):
    """Entry points as after an installation, independent of what is installed here."""
    monkeypatch.setattr(cli, "added", lambda group: {"bench": "load_tests.load.command"})


@pytest.mark.parametrize("words", [[], ["--help"]])
def test_alone_it_lists_every_command_with_the_first_line_of_its_docstring(words, capsys, bench_added):
    assert cli.main(words) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line[:2] == "  ")
    assert set(lines) >= OWN | {"bench"}
    assert lines["serve"] == "serve a target with its drafts until told to stop"
    assert lines["bench"] == "run a load test by name against a demo server or --url"
    assert all(lines.values())


def test_a_new_command_is_one_file(tmp_path, monkeypatch, capsys, bench_added):
    (tmp_path / "greet.py").write_text(
        '"""``adasd greet``: say hello."""\n\ndef main(argv):\n    print("hello", *argv)\n    return 3\n'
    )
    monkeypatch.setattr(cli, "__path__", [*cli.__path__, str(tmp_path)])
    assert cli.main(["greet", "you"]) == 3
    assert capsys.readouterr().out == "hello you\n"
    assert "greet say hello" in " ".join(cli.overview().split())


def test_a_command_of_another_package_is_found_by_its_entry_point(capsys, bench_added):
    assert cli.main(["bench", "--list"]) == 0
    assert "steady" in capsys.readouterr().out


def test_without_the_source_tree_a_load_test_says_what_it_needs(monkeypatch, capsys):
    monkeypatch.setattr(cli, "added", lambda group: {"bench": "no_such_package.load.command"})
    assert cli.main(["bench", "steady"]) == 2
    needs = "adasd: bench comes with the source tree, not with the installed package; run it from a clone\n"
    assert capsys.readouterr().err == needs
    assert "bench (comes with the source tree)" in " ".join(cli.overview().split())


@pytest.mark.parametrize(
    ("word", "says"), [("sevre", "did you mean 'serve'?"), ("x", "known are "), ("_settings", "known are ")]
)
def test_an_unknown_command_leaves_with_status_2(word, says, capsys):
    assert cli.main([word]) == 2
    assert says in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_is_no_fault():
    """As in ``adasd completion bash | head``: nobody reads the pipe any more when it is written."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        command = [sys.executable, "-m", "cluster.cli", "completion", "bash"]
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def test_the_version_is_the_package_s(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"adasd {adasd.__version__}\n"
