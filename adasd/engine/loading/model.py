"""Loads models from folders or Hugging Face ids for an engine. Also exports what ``adasd check`` needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any

from transformers import AutoModelForCausalLM, PreTrainedModel

from adasd.config import EngineConfig
from adasd.engine.forward.int8 import round_weights
from adasd.engine.forward.split import split
from adasd.engine.loading.checkpoint import check_weight_files, load_config, load_tokenizer, reading, where
from adasd.engine.loading.limits import (
    check_architecture,
    resolve_devices,
    resolve_dtype,
    resolve_max_context,
)
from adasd.engine.loading.memory import MemoryEstimate, cache_bytes_per_layer, memory_estimate
from adasd.engine.loading.vocabulary import check_vocabularies
from adasd.errors import ConfigError

__all__ = [
    "MemoryEstimate",
    "Progress",
    "check_vocabularies",
    "load_config",
    "load_model",
    "load_tokenizer",
    "memory_estimate",
    "silent",
]

Progress = Callable[[str, float], None]
"""Called with what is being done and the fraction done, in [0, 1]."""


def silent(what: str, share: float) -> None:
    """Ignores progress."""


def load_model(config: EngineConfig, progress: Progress = silent) -> PreTrainedModel:
    """The model with its weights on the device. What cannot be served is refused before weights are read."""
    progress("reading the configuration", 0.0)
    model_config = load_config(config.model, config.trust_remote_code)
    check_architecture(model_config, resolve_max_context(model_config, config.max_context))
    devices = resolve_devices(config)
    if config.weights == "int8" and len(devices) > 1:
        raise ConfigError(
            f"weights are int8 and num_devices is {len(devices)}: a rounded model is not split; change one of the two"
        )
    check_weight_files(config.model)
    progress("loading weights", 0.1)
    with reading(config.model, "weights"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            config.model,
            dtype=resolve_dtype(config.dtype, devices[0], model_config),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, by name
            use_safetensors=True,
            **where(config.model, config.trust_remote_code),
        )
    model, info = loaded
    _check_fit(config.model, model, info)
    if config.weights == "int8":
        progress("rounding weights to int8, which makes another model", 0.7)
        round_weights(model)
    progress("moving weights", 0.8)
    try:
        if len(devices) > 1:
            return split(model, devices, cache_bytes_per_layer(config))
        served: PreTrainedModel = model.to(devices[0])
    except RuntimeError as error:  # out of memory, or a broken driver
        raise ConfigError(
            f"the weights of {config.model} cannot be put on {', '.join(map(str, devices))}: {error}; choose "
            "another device or dtype"
        ) from error
    return served


def _check_fit(name: str, model: PreTrainedModel, info: dict[str, Any]) -> None:
    """Raise ConfigError if tensors are missing, have another shape, or belong to a layer that does not use them.

    Unused tensors outside the model's layers are allowed (a vision tower, multi-token prediction layers).
    """
    layers = {path for path, _ in model.named_modules() if path.rpartition(".")[2].isdigit()}
    wrong = {
        "are missing": map(str, info["missing_keys"]),
        "have another shape": (str(key[0]) for key in info["mismatched_keys"]),
        "are unknown to the model": (
            str(key) for key in info["unexpected_keys"] if not layers.isdisjoint(_prefixes(str(key)))
        ),
    }
    for problem, keys in wrong.items():
        if found := sorted(keys):
            raise ConfigError(
                f"the weights of {name} do not fit its config.json ({type(model).__name__}): {len(found)} tensors "
                f"{problem}, for example {found[0]}; both must come from the same model"
            )


def _prefixes(key: str) -> Iterator[str]:
    """``a.b.c`` -> ``a``, ``a.b``."""
    return accumulate(key.split(".")[:-1], "{}.{}".format)
