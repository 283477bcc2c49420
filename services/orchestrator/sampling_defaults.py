"""The sampling options that a model's ``generation_config.json`` recommends."""

from __future__ import annotations

from collections.abc import Mapping

from adasd.errors import ConfigError, InvalidRequest
from adasd.requests import SET_BY_MODELS, SamplingParams
from adasd.text.files import json_of
from services.gateway.validation import check_options

FILE = "generation_config.json"


def sampling_defaults(model: str) -> Mapping[str, float]:
    """Options by name, those that the file has; empty without a file. Raises ConfigError for one out of range.

    ``max_tokens`` is the file's ``max_new_tokens``: the length of answers whose request sets none.
    """
    content = json_of(model, FILE)
    found = {name: value for name, value in content.items() if name in SET_BY_MODELS}
    found["max_tokens"] = content.get("max_new_tokens")
    defaults = {name: value for name, value in found.items() if value is not None}
    todo = f"correct it, or set generation_config: none to leave {FILE} aside"
    for name, value in defaults.items():
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ConfigError(f"{FILE} of {model} has {_spelt(name)} {value!r}, which is no number; {todo}")
    for name in ("top_k", "max_tokens"):
        if name in defaults:
            defaults[name] = int(defaults[name])
    if defaults.get("max_tokens", 1) < 1:
        raise ConfigError(f"{FILE} of {model} has max_new_tokens {defaults['max_tokens']}; {todo}")
    try:
        check_options(SamplingParams(**defaults))
    except InvalidRequest as error:
        raise ConfigError(f"{FILE} of {model}: {error.message}; {todo}") from error
    return defaults


def _spelt(name: str) -> str:
    """The file's name of an option."""
    return "max_new_tokens" if name == "max_tokens" else name
