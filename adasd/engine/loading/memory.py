"""Estimates how much memory a model will take, from its configuration alone: no weights, no device are needed."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from adasd.config import EngineConfig
from adasd.engine.cache.kv_cache import LayerShape, cache_bytes_per_token
from adasd.engine.forward.int8 import rounded_layers
from adasd.engine.forward.miniature import model_factory
from adasd.engine.forward.trial import WAYS, way_of
from adasd.engine.loading.checkpoint import load_config
from adasd.engine.loading.limits import (
    intended_device,
    resolve_dtype,
    resolve_max_context,
    resolve_num_slots,
)
from adasd.engine.loading.quantised import bits_per_weight, quantisation
from adasd.errors import ConfigError

_log = logging.getLogger(__name__)

CUDA_RESERVE = 2 * 1024**3
"""Bytes per process on a card beside weights and cache: CUDA context, workspaces, recordings, activations.

An allowance, not a measurement.
"""


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes. A CPU cache is committed as it is used, so it reaches this size only when all slots are full.

    A paged cache takes no more, and less where the device has less.
    """

    weights_bytes: int
    bytes_per_slot: int
    num_slots: int
    reserve_bytes: int = 0

    @property
    def cache_bytes(self) -> int:
        return self.bytes_per_slot * self.num_slots

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.cache_bytes + self.reserve_bytes


def memory_estimate(config: EngineConfig) -> MemoryEstimate:
    """Weights, cache and reserve of one engine, over all its devices, which need not be on this machine.

    Reads only the model's configuration; raises ConfigError.
    """
    model_config = load_config(config.model, config.trust_remote_code)
    device = intended_device(config.device)
    dtype = resolve_dtype(config.dtype, device, model_config)
    max_context = resolve_max_context(model_config, config.max_context)
    model = on_meta(model_config, config.trust_remote_code)
    layers = _layer_shapes(model_config, model, max_context, config.trust_remote_code)
    bytes_per_slot = cache_bytes_per_token(layers, dtype) * max_context
    return MemoryEstimate(
        weights_bytes=_weights_bytes(model, dtype, config, quantisation(model_config)),
        bytes_per_slot=bytes_per_slot,
        num_slots=resolve_num_slots(config, bytes_per_slot),
        reserve_bytes=CUDA_RESERVE * config.num_devices if device.type == "cuda" else 0,
    )


def cache_bytes_per_layer(config: EngineConfig) -> int:
    """Cache bytes of all slots, on average per layer."""
    num_layers = load_config(config.model, config.trust_remote_code).get_text_config().num_hidden_layers
    return memory_estimate(config).cache_bytes // max(1, int(num_layers))


def on_meta(config: PreTrainedConfig, trust_remote_code: bool) -> PreTrainedModel:
    """The model without memory for its weights; experts are chosen without reading values, which meta tensors lack."""
    name = (config.architectures or [config.model_type])[0]
    try:
        with torch.device("meta"):
            model: PreTrainedModel = model_factory(config).from_config(
                copy.deepcopy(config),
                trust_remote_code=trust_remote_code,
                experts_implementation="batched_mm",
            )
    except ConfigError:
        raise
    except Exception as error:  # a configuration may be anything
        raise ConfigError(f"{name} cannot be made from its configuration: {error}") from error
    model.train(False)
    return model


def _layer_shapes(
    config: PreTrainedConfig, model: PreTrainedModel, max_context: int, trust_remote_code: bool
) -> list[LayerShape]:
    """What every layer caches: recorded on the meta device, or read from the usual fields of the configuration."""
    try:
        return WAYS[way_of(config, max_context, trust_remote_code)](model).layers
    except Exception as error:  # operations that need values, such as choosing experts one by one
        _log.debug("the layers of %s are read from its configuration: %s", type(model).__name__, error)
    return [_layer_shape(layer) for layer in config.get_text_config().per_layer_config]


def _layer_shape(layer: Any) -> LayerShape:
    num_heads = int(layer.num_attention_heads)
    head_dim = int(getattr(layer, "head_dim", None) or layer.hidden_size // num_heads)
    return LayerShape(int(getattr(layer, "num_key_value_heads", None) or num_heads), head_dim)


def _weights_bytes(
    model: PreTrainedModel, dtype: torch.dtype, config: EngineConfig, quantised: dict[str, Any] | None
) -> int:
    """Bytes of all parameters, tied ones counted once. Of a quantised checkpoint: its files, or by bits per weight."""
    full: int = sum(parameter.numel() for parameter in model.parameters()) * dtype.itemsize
    if quantised is not None:
        files = list(Path(config.model).glob("*.safetensors"))
        if files:
            return sum(file.stat().st_size for file in files)
        head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
        rounded = sum(linear.weight.numel() for _, _, linear in rounded_layers(model) if linear is not head)
        return int(full - rounded * (dtype.itemsize - bits_per_weight(quantised) / 8))
    if config.weights == "full":
        return full
    layers = [linear for _, _, linear in rounded_layers(model)]
    embedding: Any = model.get_input_embeddings()
    freed = sum(linear.weight.numel() for linear in layers if linear.weight is not embedding.weight)
    rounded_bytes = sum(linear.weight.numel() + linear.out_features * dtype.itemsize for linear in layers)
    return full - freed * dtype.itemsize + rounded_bytes
