"""Environments of peers: made whole or not at all, and a refusal in one sentence."""

import sys

import pytest

from load_tests.peers import environments
from load_tests.peers.environments import Environment, NotInstalled, python_of

ONE = Environment("one", ("a==1",), unwanted=("b",))


def test_an_environment_is_made_once_with_what_it_needs(tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(
        environments, "_run", lambda command, timeout_s: commands.append(command) or whole(command)
    )

    def whole(command):
        if command[2] == "venv":
            (tmp_path / ONE.folder_name / "bin").mkdir(parents=True)

    python = python_of(ONE, tmp_path)
    assert python_of(ONE, tmp_path) == python == tmp_path / ONE.folder_name / "bin" / "python"
    assert [command[-1] for command in commands] == [str(tmp_path / ONE.folder_name), "a==1", "b"]
    assert "uninstall" in commands[2]
    assert commands[0][0] == sys.executable


def test_other_packages_are_another_environment():
    names = {Environment("one", ("a==1",)).folder_name, Environment("one", ("a==2",)).folder_name}
    assert len({*names, ONE.folder_name}) == 3


def test_a_failed_installation_is_told_and_leaves_nothing(tmp_path, monkeypatch):
    run = environments._run

    def fails(command, timeout_s):
        if "install" in command:
            run(
                [sys.executable, "-c", "import sys; print('ERROR: no wheel for this machine'); sys.exit(3)"],
                timeout_s,
            )
        (tmp_path / ONE.folder_name).mkdir()

    monkeypatch.setattr(environments, "_run", fails)
    with pytest.raises(NotInstalled, match=r"^ERROR: no wheel for this machine$"):
        python_of(ONE, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_and_an_installation_without_end_are_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotInstalled, match="cannot be made"):
        python_of(ONE, tmp_path / "file")
    with pytest.raises(NotInstalled, match=r"more than 0\.05 s"):
        environments._run([sys.executable, "-c", "import time; time.sleep(20)"], 0.05)
