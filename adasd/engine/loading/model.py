"""Loads models from folders or Hugging Face ids for an engine. Also exports what ``adasd check`` needs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import accumulate
from typing import Any

import torch
from transformers import PreTrainedModel

from adasd.config import EngineConfig
from adasd.engine.forward.int8 import round_weights
from adasd.engine.forward.miniature import model_factory
from adasd.engine.loading.adapters import merge_adapter, read_adapter
from adasd.engine.loading.checkpoint import check_weight_files, load_config, load_tokenizer, reading, where
from adasd.engine.loading.inspection import check_model
from adasd.engine.loading.limits import resolve_device, resolve_dtype
from adasd.engine.loading.memory import MemoryEstimate, check_room, memory_estimate
from adasd.engine.loading.vocabulary import check_vocabularies
from adasd.engine.parallel.sharding import sharded_factory
from adasd.errors import ConfigError

_log = logging.getLogger(__name__)

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
    """The model with its weights on the device. What cannot be served is refused before weights are read.

    Of several ranks, this process's shard; it must have joined the others.
    """
    progress("reading the configuration", 0.0)
    model_config = check_model(config)
    device = resolve_device(config.device)
    check_weight_files(config.model)
    if device.type == "cuda":
        check_room(config, *torch.cuda.mem_get_info(device))
    adapter = None if config.adapter is None else read_adapter(config.adapter)
    factory: Any = model_factory(model_config)
    placement = _placement(config, device)
    if config.tensor_parallel > 1:
        factory, placement = sharded_factory(config, model_config)
    progress("loading weights", 0.1)
    with reading(config.model, "weights"):
        loaded: Any = factory.from_pretrained(
            config.model,
            dtype=resolve_dtype(config.dtype, device, model_config),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, by name
            use_safetensors=True,
            **placement,
            **where(config.model, config.trust_remote_code),
        )
    model, info = loaded
    _check_fit(config.model, model, info)
    if adapter is not None:
        progress("merging the adapter", 0.6)
        merge_adapter(adapter, model)
    if config.weights == "int8":
        progress("rounding weights to int8, which makes another model", 0.7)
        round_weights(model)
    progress("moving weights", 0.8)
    try:
        is_there = placement or model.device == device  # some quantised models cannot be moved
        served: PreTrainedModel = model if is_there else model.to(device)
    except RuntimeError as error:  # out of memory, or a broken driver
        raise ConfigError(
            f"the weights of {config.model} cannot be put on {device}: {error}; choose "
            "another device or dtype"
        ) from error
    return served


def _placement(config: EngineConfig, device: torch.device) -> dict[str, Any]:
    """Arguments that read weights straight to one card, not by way of host memory. That needs accelerate."""
    if device.type != "cuda" or config.weights != "full":
        return {}
    if find_spec("accelerate") is None:
        _log.warning(
            "the weights of %s pass through host memory, as accelerate is not installed: pip install "
            "'adasd-serve[cuda]'",
            config.model,
        )
        return {}
    index = device.index
    return {"device_map": {"": torch.cuda.current_device() if index is None else index}}


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
