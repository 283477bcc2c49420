"""A virtual environment for each peer, made once in a cache folder, with pinned packages.

A peer gets one of its own, since their requirements exclude each other and ours. A file written last says that it is
whole; a half-made one is removed.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

INSTALL_S = 1800.0


class NotInstalled(Exception):
    """The peer cannot be had here; the text says why, in one sentence."""


@dataclass(frozen=True, slots=True)
class Environment:
    """What a peer needs: pinned wheels."""

    name: str
    packages: tuple[str, ...]
    unwanted: tuple[str, ...] = ()
    """Packages that come along and break an import, such as one built for another torch."""

    @property
    def folder_name(self) -> str:
        """Differs where anything about the environment differs."""
        told = repr((self.packages, self.unwanted, sys.version_info[:3], sys.prefix))
        return f"{self.name}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"


def python_of(environment: Environment, cache: Path, timeout_s: float = INSTALL_S) -> Path:
    """The environment's Python, made if it is not there yet; raises NotInstalled."""
    folder = cache / environment.folder_name
    python = folder / "bin" / "python"
    if not (folder / "complete").is_file():
        try:
            shutil.rmtree(folder, ignore_errors=True)
            _make(environment, folder, timeout_s)
        except OSError as error:
            raise NotInstalled(f"{folder} cannot be made: {error.strerror or error}") from error
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return python


def _make(environment: Environment, folder: Path, timeout_s: float) -> None:
    python = str(folder / "bin" / "python")
    folder.parent.mkdir(parents=True, exist_ok=True)
    _run([sys.executable, "-m", "venv", str(folder)], timeout_s)
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    _run([*pip, "install", "--only-binary", ":all:", *environment.packages], timeout_s)
    if environment.unwanted:
        _run([*pip, "uninstall", "--yes", *environment.unwanted], timeout_s)
    (folder / "complete").write_text("\n".join(environment.packages) + "\n", encoding="utf-8")


def _run(command: Sequence[str], timeout_s: float) -> None:
    with TemporaryDirectory(prefix="peers-") as folder:
        log = Path(folder, "log.txt")
        try:
            with log.open("wb") as stream:
                done = subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=stream,
                    timeout=timeout_s,
                    check=False,
                )
        except subprocess.TimeoutExpired as error:
            raise NotInstalled(f"installing took more than {timeout_s:g} s") from error
        if done.returncode:
            lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
            said = next((line for line in reversed(lines) if "ERROR" in line), " ".join(lines[-1:]))
            raise NotInstalled(said or f"{command[0]} ended with status {done.returncode}")
