"""Helpers for benchmarks of the demo pair: its folder, an enlarged target, an argparse type."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from load_tests import record

DEMO = record.ROOT / "models" / "demo"


@contextmanager
def enlarged(factor: int, extra_layers: int) -> Iterator[Path]:
    """Folder of the demo target enlarged by these amounts; it is removed at the end."""
    from adasd.demo.enlarge import main as enlarge

    with tempfile.TemporaryDirectory(prefix="latency-") as folder:
        options = ["--factor", str(factor), "--extra-layers", str(extra_layers), "--out", folder]
        if enlarge(["--model", str(DEMO / "target"), *options]):
            raise RuntimeError("the demo target could not be enlarged")
        yield Path(folder)


def positive(text: str) -> int:
    """For argparse: an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value
