"""A model's JSON files, and advice for one that could not be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers.utils.hub import cached_file


def json_of(model: str, file: str) -> dict[str, Any]:
    """One of the model's JSON files, from its folder or the hub's cache; empty without the file."""
    path = cached_file(
        model,
        file,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return {} if path is None else dict(json.loads(Path(path).read_text(encoding="utf-8")))


def remedy(model: str, file: str) -> str:
    """Advice to append to an error if the JSON file in the model folder is missing or broken, else an empty text."""
    path = Path(model) / file
    if not path.parent.is_dir():
        return ""
    if not path.is_file():
        return f"; {path} is missing: copy it from the source of the model"
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return f"; {path} is not JSON: copy it again"
    return ""
