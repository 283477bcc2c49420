"""A file system of its own in a folder, which can become full and have space again.

Needs the right to mount: as root, or as anybody in name spaces of their own (AS_ROOT in front of the command).
"""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

AS_ROOT = ("unshare", "--user", "--map-root-user", "--mount")
"""Runs a command as root of name spaces that hold nothing but this user and a copy of the mounts."""
SIZE_BYTES = 2 * 1024**3
"""An upper limit: the files are in memory, and what is not written takes none."""


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """A mounted file system. Its size changes, so that it is full without a file that takes the space."""

    folder: Path

    def fill(self) -> None:
        """No byte can be written from now on."""
        disk = os.statvfs(self.folder)
        self._resize((disk.f_blocks - disk.f_bfree) * disk.f_frsize)
        fills_up = self.folder / "filler"
        try:
            with fills_up.open("ab", buffering=0) as file:
                while True:
                    file.write(bytes(disk.f_frsize))
        except OSError:  # full
            return

    def free(self) -> None:
        """There is space again."""
        (self.folder / "filler").unlink(missing_ok=True)
        self._resize(SIZE_BYTES)

    def _resize(self, size_bytes: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size_bytes}", self.folder], check=True)


def can_mount(prefix: Sequence[str] = ()) -> bool:
    """Whether this process may mount, or a command that begins with AS_ROOT."""
    with tempfile.TemporaryDirectory(prefix="mount-") as folder:
        mounting = shlex.join(_mounting(folder))
        tried = [*prefix, "sh", "-c", f"{mounting} && umount {folder}"]
        try:
            return not subprocess.run(tried, capture_output=True, check=False).returncode
        except OSError:  # no unshare here
            return False


@contextmanager
def small_disk(folder: Path) -> Iterator[SmallDisk]:
    """Mounted at ``folder``, which exists; unmounted and empty at the end."""
    subprocess.run(_mounting(folder), check=True)
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)  # lazy: a killed process may still be ending


def _mounting(folder: str | Path) -> list[str]:
    return ["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "adasd-load-test", str(folder)]
