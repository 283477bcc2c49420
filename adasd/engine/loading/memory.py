"""Estimates how much memory a model will take, from its configuration alone: no weights, no device are needed."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from adasd.config import EngineConfig
from adasd.engine.cache.layers import CacheNeeds, LayerShape
from adasd.engine.cache.pages import PageNeeds
from adasd.engine.forward import int8
from adasd.engine.forward.miniature import model_factory
from adasd.engine.forward.trial import WAYS, way_of
from adasd.engine.loading.checkpoint import load_config
from adasd.engine.loading.context import resolve_max_context
from adasd.engine.loading.limits import (
    check_architecture,
    intended_device,
    is_paged,
    resolve_dtype,
    resolve_num_slots,
)
from adasd.engine.loading.quantised import bits_per_weight, is_unpacked, quantisation
from adasd.engine.loading.sizing import contiguous_context, host_budget, page_size
from adasd.engine.parallel.footprint import num_caches, values_on_a_rank
from adasd.errors import ConfigError

_log = logging.getLogger(__name__)

CUDA_RESERVE = 2 * 1024**3
"""Bytes per process on a card beside weights and cache: CUDA context, workspaces, recordings, activations.

An allowance, not a measurement.
"""


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes of one engine. A cache on a CPU is committed as it is used, so it grows up to this size.

    A paged cache without a size of its own takes what its share of the device leaves, up to all slots at full length.
    """

    weights_bytes: int
    bytes_per_slot: int  # at full length
    num_slots: int
    reserve_bytes: int = 0
    max_context: int = 0  # tokens per slot; the memory of a card that is not known here may allow fewer
    cache_limit: int | None = None  # of a paged cache: most bytes that it may take
    least_cache_bytes: int | None = (
        None  # of a paged cache whose size the card decides: what it cannot do without
    )
    gpu_share: float = 1.0  # of a card that weights, reserve and such a cache may take
    page_bytes: int = 0  # of a paged cache, as the next
    pages: PageNeeds | None = None

    @property
    def cache_bytes(self) -> int:
        """All slots at full length, or what the cache may take, if less."""
        full = self.bytes_per_slot * self.num_slots
        return full if self.cache_limit is None else min(full, self.cache_limit)

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.cache_bytes + self.reserve_bytes

    @property
    def least_bytes(self) -> int:
        """What the engine cannot do without."""
        least = self.cache_bytes if self.least_cache_bytes is None else self.least_cache_bytes
        return self.weights_bytes + least + self.reserve_bytes

    def cache_bytes_on(self, num_bytes: int | None) -> int:
        """The cache on cards with ``num_bytes`` in all; None: not known."""
        if self.least_cache_bytes is None or num_bytes is None:
            return self.cache_bytes
        left = int(num_bytes * self.gpu_share) - self.weights_bytes - self.reserve_bytes
        return max(0, min(self.cache_bytes, left))

    def context_in(self, cache_bytes: int) -> int:
        """Tokens of the longest session, up to ``max_context``, that a cache of this size holds."""
        if self.pages is None or cache_bytes >= self.bytes_per_slot:
            return self.max_context
        return self.pages.context_of(cache_bytes // self.page_bytes, self.max_context)


def memory_estimate(config: EngineConfig) -> MemoryEstimate:
    """Weights, cache and reserve of one engine, over all its ranks, which need not be on this machine.

    Reads only the model's configuration; raises ConfigError.
    """
    rank, num_ranks = _of_a_rank(config), config.tensor_parallel
    if num_ranks == 1:
        return rank
    return replace(
        rank,
        weights_bytes=num_ranks * rank.weights_bytes,
        bytes_per_slot=num_ranks * rank.bytes_per_slot,
        reserve_bytes=num_ranks * rank.reserve_bytes,
        cache_limit=None if rank.cache_limit is None else num_ranks * rank.cache_limit,
        least_cache_bytes=None if rank.least_cache_bytes is None else num_ranks * rank.least_cache_bytes,
        page_bytes=num_ranks * rank.page_bytes,
    )


def _of_a_rank(config: EngineConfig) -> MemoryEstimate:
    model_config = load_config(config.model, config.trust_remote_code)
    check_architecture(model_config, config.max_context or 0)
    device = intended_device(config.device)
    dtype = resolve_dtype(config.dtype, device, model_config)
    max_context = resolve_max_context(model_config, config.max_context)
    model = on_meta(model_config, config.trust_remote_code)
    layers = _layer_shapes(model_config, model, max_context, config.trust_remote_code)
    num_ranks, on_cuda = config.tensor_parallel, device.type == "cuda"
    paged = is_paged(config, device)
    # what the C kernels write, whatever type the weights have
    kept = dtype if on_cuda or paged or config.compile == "off" else torch.float32
    needs = CacheNeeds.of(layers, kept, num_caches(model, num_ranks))
    per_token = needs.bytes_per_token
    weights_bytes = _weights_bytes(model, dtype, config, quantisation(model_config))
    reserve_bytes = CUDA_RESERVE if on_cuda else 0
    if not paged:
        if config.max_context is None:
            max_context = contiguous_context(config, max_context, per_token)
        num_slots = resolve_num_slots(config, per_token * max_context)
        return MemoryEstimate(weights_bytes, per_token * max_context, num_slots, reserve_bytes, max_context)
    size, per_place = page_size(device), needs.bytes_per_place
    pages = PageNeeds(size, needs.windows, config.prefill_chunk)
    limit = host_budget(num_ranks) if config.cache_bytes is None and not on_cuda else config.cache_bytes
    if limit is not None and config.max_context is None:
        max_context = max(1, pages.context_of(limit // (size * per_place), max_context))
    needed = pages.pages_of(max_context)
    decided_by_card = on_cuda and config.cache_bytes is None
    least = pages.pages_of(size) if config.max_context is None else needed
    return MemoryEstimate(
        weights_bytes,
        per_place * min(len(needs.windows) * max_context, needed * size),
        config.num_slots,
        reserve_bytes,
        max_context,
        cache_limit=limit,
        least_cache_bytes=per_place * size * least if decided_by_card else None,
        gpu_share=config.gpu_share,
        page_bytes=per_place * size,
        pages=pages,
    )


def check_room(config: EngineConfig, free_bytes: int, total_bytes: int) -> None:
    """Raise ConfigError if a card with this much free memory cannot hold a rank's weights, reserve and least cache."""
    estimate = _of_a_rank(config)
    if estimate.least_bytes <= free_bytes:
        return
    cache = estimate.least_bytes - estimate.weights_bytes - estimate.reserve_bytes
    left = max(0, free_bytes - estimate.reserve_bytes - cache)
    sizes = (estimate.weights_bytes, cache, estimate.reserve_bytes, free_bytes, total_bytes, left)
    weights, cache_, reserve, free, total, fits = (f"{size / 2**30:.1f} GiB" for size in sizes)
    raise ConfigError(
        f"{config.model} takes {weights} of weights, at least {cache_} of cache and {reserve} of reserve, but "
        f"{config.device} has {free} of {total} free, where weights of {fits} would fit; take a smaller or a quantised "
        "model, lower max_context, or free the card"
    )


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
    """Bytes of a rank's parameters, tied ones counted once. Of a quantised checkpoint: its files, or by bits per
    weight, if the library keeps them packed."""
    full = values_on_a_rank(model, config.tensor_parallel) * dtype.itemsize
    if quantised is not None and is_unpacked(quantised, intended_device(config.device).type):
        return full
    if quantised is not None:
        files = list(Path(config.model).glob("*.safetensors"))
        if files:
            return sum(file.stat().st_size for file in files)
        head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
        rounded = sum(
            linear.weight.numel() for _, _, linear in int8.rounded_layers(model) if linear is not head
        )
        return int(full - rounded * (dtype.itemsize - bits_per_weight(quantised) / 8))
    if config.weights == "full":
        return full
    layers = [linear for _, _, linear in int8.rounded_layers(model)]
    embedding: Any = model.get_input_embeddings()
    freed = sum(linear.weight.numel() for linear in layers if linear.weight is not embedding.weight)
    rounded_bytes = sum(int8.bytes_of(*linear.weight.shape) for linear in layers)
    return full - freed * dtype.itemsize + rounded_bytes
