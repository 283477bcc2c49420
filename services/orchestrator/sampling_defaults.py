"""The sampling options that a model's ``generation_config.json`` recommends."""

from __future__ import annotations

from collections.abc import Mapping

from adasd.errors import ConfigError, InvalidRequest
from adasd.requests import SET_BY_MODELS, SamplingParams
from adasd.text.files import json_of
from services.gateway.validation import check_options

FILE = "generation_config.json"


def sampling_defaults(model: str) -> Mapping[str, float]:
    """Options by name, those that the file has; empty without a file. Raises ConfigError for one out of range."""
    found = {name: value for name, value in json_of(model, FILE).items() if name in SET_BY_MODELS}
    defaults = {name: value for name, value in found.items() if value is not None}
    todo = f"correct it, or set generation_config: none to leave {FILE} aside"
    for name, value in defaults.items():
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ConfigError(f"{FILE} of {model} has {name} {value!r}, which is no number; {todo}")
    if "top_k" in defaults:
        defaults["top_k"] = int(defaults["top_k"])
    try:
        check_options(SamplingParams(**defaults))
    except InvalidRequest as error:
        raise ConfigError(f"{FILE} of {model}: {error.message}; {todo}") from error
    return defaults
