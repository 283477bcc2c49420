"""What a person can do about a model file that could not be read."""

from __future__ import annotations

import json
from pathlib import Path


def remedy(model: str, file: str) -> str:
    """``; path is missing: ...`` if a model folder lacks the JSON file or holds a broken one; else nothing."""
    path = Path(model) / file
    if not path.parent.is_dir():
        return ""
    if not path.is_file():
        return f"; {path} is missing: copy it from where the model came from"
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return f"; {path} is not JSON: copy it again"
    return ""
