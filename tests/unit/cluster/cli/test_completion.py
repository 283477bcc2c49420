"""The completion script: a real bash completes commands, options and values with it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cluster import cli


def completed(script: Path, *words: str) -> set[str]:
    """What a bash offers for the last word."""
    line = " ".join(words)
    ask = (
        f"source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; COMP_LINE='{line}'; "
        f"COMP_POINT={len(line)}; _shtab_adasd adasd {words[-1]} {words[-2]}; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_bash_completes_commands_options_and_values(tmp_path, capsys):
    assert cli.main(["completion", "bash"]) == 0
    script = tmp_path / "adasd.bash"
    script.write_text(capsys.readouterr().out)
    assert completed(script, "adasd", "se") == {"serve"}
    assert completed(script, "adasd", "serve", "--target-num-s") == {"--target-num-slots"}
    assert completed(script, "adasd", "chat", "--mode", "ex") == {"exact"}
    assert "train" in completed(script, "adasd", "draft", "tr")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_a_script_of_their_own(shell, capsys):
    assert cli.main(["completion", shell]) == 0
    assert "--speculation-bypass" in capsys.readouterr().out


def test_an_unknown_shell_is_refused(capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["completion", "cmd"])
    assert left.value.code == 2
    assert "bash" in capsys.readouterr().err
