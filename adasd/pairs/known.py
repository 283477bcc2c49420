"""The pairs that have a name, and where their models lie."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

from adasd.errors import ConfigError
from adasd.pairs import smollm2
from adasd.pairs.smollm2 import Progress

PAIRS = {
    "demo": "the embedded pair: 1.5 M parameters, four checkable tasks, nothing to fetch",
    "smollm2": f"{smollm2.ORIGIN}, with a draft of our own; 93 to 270 MB are fetched once",
}


def resolve_pair(
    name: str, models: Path, environment: Mapping[str, str], progress: Progress
) -> tuple[Path, Path]:
    """Folders of target and draft, fetched where they are not there yet; raises ConfigError.

    ``models``: the folder of the models that come with the package. ``environment``: ADASD_CACHE, XDG_CACHE_HOME
    and HOME say where fetched models are kept.
    """
    if name == "demo":
        return models / "demo" / "target", models / "demo" / "draft"
    if name == "smollm2":
        return smollm2.fetch(cache_folder(environment), progress), models / "smollm2-draft"
    near = difflib.get_close_matches(name, PAIRS, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ConfigError(f"there is no pair {name!r}, only {' and '.join(PAIRS)}{hint}")


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Where models are kept that were fetched."""
    if own := environment.get("ADASD_CACHE"):
        return Path(own).expanduser()
    if shared := environment.get("XDG_CACHE_HOME"):
        return Path(shared, "adasd")
    return Path(environment.get("HOME") or Path.home(), ".cache", "adasd")
