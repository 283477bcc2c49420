"""Space on the disk that a process writes its log to.

On a full disk, answers go on and log records are lost, but Ray starts no process, so a replica that ends is not
replaced.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

SCARCE_BYTES = 32 * 1024 * 1024
"""Below this, the disk counts as full: Ray's processes write some MB within minutes."""


def shortage(of: int | Path) -> str | None:
    """One sentence if the disk of an open file (its descriptor) or a folder is full; None if it is not, or unknown."""
    try:
        disk = os.statvfs(of)
    except OSError:
        return None
    free = disk.f_bavail * disk.f_frsize
    if disk.f_blocks == 0 or free >= SCARCE_BYTES:  # no blocks: a terminal or a pipe
        return None
    return (
        f"the disk with the logs is full ({free // 2**20} MiB left): log records are lost, and a replica that ends is "
        "not replaced; free some space"
    )


def log_disk_shortage() -> str | None:
    """The shortage of the disk that this process's standard error goes to."""
    stderr = sys.__stderr__
    return None if stderr is None else shortage(stderr.fileno())
