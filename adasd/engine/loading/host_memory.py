"""How much memory this process may use: the machine's, or less in a container with a limit (Linux control groups)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def host_bytes(membership: Path = Path("/proc/self/cgroup"), hierarchy: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes of the machine, or of the tightest limit of this process's control groups if that is less."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *_limits(membership, hierarchy)])


def _limits(membership: Path, hierarchy: Path) -> Iterator[int]:
    """Every limit that holds for this process. Version 1 writes a huge number where there is none."""
    for file in _files(membership, hierarchy):
        try:
            text = file.read_text().strip()
        except OSError:  # the topmost group of a machine has none
            continue
        if text.isdigit():  # else "max"
            yield int(text)


def _files(membership: Path, hierarchy: Path) -> Iterator[Path]:
    """Where limits may be written: for the process's own group and those above it.

    In a container the path may be the machine's while ``hierarchy`` begins with the container's own group; then only
    the last file exists.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            top, name = hierarchy, "memory.max"
        elif "memory" in controllers.split(","):
            top, name = hierarchy / "memory", "memory.limit_in_bytes"
        else:
            continue
        parts = Path(path.lstrip("/")).parts
        yield from (top.joinpath(*parts[:depth], name) for depth in range(len(parts), -1, -1))
