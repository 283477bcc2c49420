"""Estimates how much memory a model will take, before it is loaded."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from adasd.config import EngineConfig
from adasd.engine.cache.kv_cache import LayerShape, cache_bytes_per_token
from adasd.engine.forward.int8 import rounded_layers
from adasd.engine.loading.checkpoint import load_config
from adasd.engine.loading.limits import resolve_device, resolve_dtype, resolve_max_context, resolve_num_slots


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes. A CPU cache is committed as it is used, so it reaches this size only when all slots are full."""

    weights_bytes: int
    bytes_per_slot: int
    num_slots: int

    @property
    def cache_bytes(self) -> int:
        return self.bytes_per_slot * self.num_slots

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.cache_bytes


def memory_estimate(config: EngineConfig) -> MemoryEstimate:
    """Weights and cache of one engine. Reads only the model's configuration; raises ConfigError."""
    model_config = load_config(config.model, config.trust_remote_code)
    dtype = resolve_dtype(config.dtype, resolve_device(config.device), model_config)
    layers = layer_shapes(model_config)
    max_context = resolve_max_context(model_config, config.max_context)
    bytes_per_slot = cache_bytes_per_token(layers, dtype) * max_context
    return MemoryEstimate(
        weights_bytes=weights_bytes(model_config, dtype, config),
        bytes_per_slot=bytes_per_slot,
        num_slots=resolve_num_slots(config, bytes_per_slot),
    )


def cache_bytes_per_layer(config: EngineConfig) -> int:
    """Cache bytes of all slots, on average per layer."""
    num_layers = load_config(config.model, config.trust_remote_code).get_text_config().num_hidden_layers
    return memory_estimate(config).cache_bytes // max(1, int(num_layers))


def layer_shapes(config: PreTrainedConfig) -> list[LayerShape]:
    """What every layer caches, read from the usual fields of the configuration."""
    text = config.get_text_config()
    num_heads = int(text.num_attention_heads)
    head_dim = int(getattr(text, "head_dim", None) or text.hidden_size // num_heads)
    kv_heads = int(getattr(text, "num_key_value_heads", None) or num_heads)
    return [LayerShape(kv_heads, head_dim)] * int(text.num_hidden_layers)


def weights_bytes(model_config: PreTrainedConfig, dtype: torch.dtype, config: EngineConfig) -> int:
    """Bytes of all parameters, tied ones counted once. Builds the modules on the meta device, without memory."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            model_config, trust_remote_code=config.trust_remote_code
        )
    full: int = sum(parameter.numel() for parameter in model.parameters()) * dtype.itemsize
    if config.weights == "full":
        return full
    layers = [linear for _, _, linear in rounded_layers(model)]
    saved = sum(linear.weight.numel() * (dtype.itemsize - 1) for linear in layers)
    return full - saved + sum(linear.out_features for linear in layers) * dtype.itemsize
