"""Resolves settings against a model: whether it can be served, its slots, devices and dtype."""

from __future__ import annotations

import torch
from transformers import PreTrainedConfig

from adasd.config import EngineConfig
from adasd.engine.forward.miniature import model_factory
from adasd.engine.loading.context import GROWING_ROPE, rope_schemes
from adasd.errors import ConfigError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_ATTENTION_LAYERS = ("full_attention", "sliding_attention", "chunked_attention", "attention")
_STATE_FIELDS = ("mamba_", "ssm_", "lru_", "linear_conv_")
"""How fields of models with state-space or recurrent layers begin."""


def check_architecture(config: PreTrainedConfig, max_context: int) -> None:
    """Raise ConfigError for architectures whose state is not keys and values by position."""
    name = (config.architectures or [config.model_type])[0]
    if config.is_encoder_decoder:
        raise ConfigError(f"{name} is an encoder-decoder model; only decoder-only language models are served")
    model_factory(config)
    text = config.get_text_config()
    if (state := _state_of(text)) is not None:
        raise ConfigError(
            f"{name} has {state}, whose state cannot be rolled back; only models made of attention layers are served"
        )
    for scheme in rope_schemes(text):
        native = scheme.get("original_max_position_embeddings")
        if scheme.get("rope_type") in GROWING_ROPE and native and max_context > native:
            raise ConfigError(
                f"{name} changes its rotary embedding beyond {native} tokens ({scheme['rope_type']}), which depends "
                f"on the other sessions of a batch; set max_context to {native} or less (it is {max_context})"
            )


def _state_of(text: PreTrainedConfig) -> str | None:
    """The layers that keep a state other than keys and values; None if there are none."""
    types = getattr(text, "layer_types", None)
    if kinds := set(types or ()) - set(_ATTENTION_LAYERS):
        return f"layers of type {', '.join(sorted(kinds))}"
    if types is None and any(field.startswith(_STATE_FIELDS) for field in vars(text)):
        return "state-space or recurrent layers"
    return None if getattr(text, "num_attention_heads", None) else "no attention heads but recurrent layers"


def is_paged(config: EngineConfig, device: torch.device) -> bool:
    """Whether the cache on this device is paged."""
    return config.cache == "paged" or (config.cache == "auto" and device.type == "cuda")


def resolve_num_slots(config: EngineConfig, bytes_per_slot: int) -> int:
    """Slots of the cache: ``num_slots``, or as many as fit in ``cache_bytes`` if that is fewer."""
    if config.cache_bytes is None:
        return config.num_slots
    num_slots = config.cache_bytes // bytes_per_slot
    if num_slots < 1:
        raise ConfigError(
            f"cache_bytes is {config.cache_bytes}, but one slot of the model takes {bytes_per_slot} bytes; raise "
            "cache_bytes or lower max_context"
        )
    return min(num_slots, config.num_slots)


def resolve_device(device: str) -> torch.device:
    """``auto`` means CUDA if there is a CUDA device, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device {device!r} is unknown; use cpu, cuda, cuda:N or auto") from error
    if resolved.type not in ("cpu", "cuda"):
        raise ConfigError(f"device {device!r} is not served; use cpu, cuda, cuda:N or auto")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if resolved.type == "cuda" and (resolved.index or 0) >= count:
        raise ConfigError(
            f"device {device!r} was asked for, but there are {count} CUDA devices here; use auto"
        )
    return resolved


def resolve_dtype(dtype: str, device: torch.device, config: PreTrainedConfig) -> torch.dtype:
    """``auto``: float32 on a CPU, so that greedy output does not depend on the batch; else the checkpoint's."""
    if dtype == "auto":
        own = config.get_text_config().dtype or config.dtype
        return own if device.type == "cuda" and isinstance(own, torch.dtype) else torch.float32
    if dtype not in _DTYPES:
        raise ConfigError(f"dtype {dtype!r} is unknown; use auto, {', '.join(_DTYPES)}")
    return _DTYPES[dtype]


def intended_device(device: str) -> torch.device:
    """Like ``resolve_device``, for a device that need not be on this machine."""
    return torch.device("cuda") if device.startswith("cuda") else resolve_device(device)
