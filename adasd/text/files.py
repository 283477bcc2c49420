"""A model's JSON files, where models are read from, and advice for a file that could not be read."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import httpx
from huggingface_hub import constants
from transformers.utils.hub import cached_file


def is_local(model: str) -> bool:
    """Whether the model is read without the hub: from its folder, or where no hub is reached from the hub's cache."""
    return Path(model).is_dir() or not hub_answers()


@functools.cache
def hub_answers() -> bool:
    """Asked once per process and briefly; the hub's own client tries for half a minute, for every file again."""
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        httpx.head(constants.ENDPOINT, timeout=5)
    except httpx.HTTPError:
        return False
    return True


def json_of(model: str, file: str) -> dict[str, Any]:
    """One of the model's JSON files, from its folder or the hub's cache; empty without the file."""
    path = cached_file(
        model,
        file,
        local_files_only=is_local(model),
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return {} if path is None else dict(json.loads(Path(path).read_text(encoding="utf-8")))


def remedy(model: str, file: str) -> str:
    """Advice to append to an error if the model's JSON file is missing, broken or out of reach, else an empty text."""
    path = Path(model) / file
    if not path.parent.is_dir():
        return "" if hub_answers() else "; give a folder, or try again where the hub is reached"
    if not path.is_file():
        return f"; {path} is missing: copy it from the source of the model"
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return f"; {path} is not JSON: copy it again"
    return ""
