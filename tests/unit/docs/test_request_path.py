"""docs/request_path.md names files and functions that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
LINES = re.findall(
    r"^\| `([\w/]+\.py)` \| ([^|]*) \|",
    (ROOT / "docs" / "request_path.md").read_text(encoding="utf-8"),
    re.MULTILINE,
)


def names(file: Path) -> set[str]:
    """Functions and classes of a file, methods as ``Class.method``."""
    found = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {
                f"{node.name}.{one.name}"
                for one in node.body
                if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)
            }
    return found


@pytest.mark.parametrize(("file", "cell"), LINES)
def test_the_functions_are_there(file: str, cell: str) -> None:
    for name in re.findall(r"`([\w.]+)`", cell):
        assert name in names(ROOT / file), f"{file}: {name}"


def test_there_are_lines() -> None:
    assert len(LINES) > 30
