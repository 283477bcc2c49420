"""Files that come with the package: the demo pair and the manifests that every overlay builds on.

In a source tree they are at its root; an installed package contains them (pyproject.toml).
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGED = Path(str(files("cluster"))) / "packaged"


def packaged(name: str) -> Path:
    """The folder of that name, for example ``models/demo``."""
    inside = PACKAGED / name
    return inside if inside.is_dir() else ROOT / name


DEMO = packaged("models/demo")
"""The pair that is served if no model is configured."""
BASE = packaged("k8s/base")
"""The manifests that a rendered overlay patches."""
