"""Advice for a model file that could not be read."""

from __future__ import annotations

import json
from pathlib import Path


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
