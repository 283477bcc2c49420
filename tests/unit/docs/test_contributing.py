"""The worked examples of CONTRIBUTING.md run as written: each code block in turn, then its tests."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from adasd.methods import registry

TEXT = (Path(__file__).resolve().parents[3] / "CONTRIBUTING.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (Add [^\n]*)\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE))


def blocks(section: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", SECTIONS[section], re.DOTALL | re.MULTILINE)


def imported(name: str, source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The block as a module of its own."""
    (folder / f"{name}.py").write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def registered_for_one_test(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Methods that an example registers are gone afterwards."""
    registry.load()
    for known in ("_drafting", "_acceptance"):
        monkeypatch.setattr(registry, known, dict(getattr(registry, known)))
    yield
    registry.drafting_method.cache_clear()
    registry.acceptance_method.cache_clear()


@pytest.mark.parametrize(
    "section", ["Add a drafting method", "Add an acceptance method", "Add a model family"]
)
@pytest.mark.usefixtures("registered_for_one_test")
def test_a_worked_example(section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tests = 0
    for number, source in enumerate(blocks(section)):
        module = imported(f"worked_example_{number}", source, tmp_path, monkeypatch)
        for name in [name for name in vars(module) if name.startswith("test_")]:
            getattr(module, name)()
            tests += 1
    assert tests == 1
