"""Attention of flat tokens over the slots of the cache, for our own forward and for transformers' modules.

Shape letters: T tokens of all sequences, R sequences of a group, N tokens of its longest one, L longest cached
length, H query heads, G key-value heads, F = H / G query heads per key-value head, D head dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from adasd.engine.cache.kv_cache import KVCache, LayerShape
from adasd.engine.forward.batch import ForwardBatch, Group
from adasd.errors import ConfigError

IMPLEMENTATION = "slots"
"""Name under which transformers finds ``slot_attention``."""


def attend(
    queries_THD: Tensor,
    cache: KVCache,
    layer: int,
    batch: ForwardBatch,
    scaling: float | None = None,
    window: int | None = None,
) -> Tensor:
    """Attention over the cache, including this pass's own keys and values: [T, H, D]."""
    if len(batch.groups) == 1:
        return _attend_group(queries_THD, cache, layer, batch.groups[0], scaling, window)
    parts = [
        _attend_group(queries_THD[group.first : group.last], cache, layer, group, scaling, window)
        for group in batch.groups
    ]
    return torch.cat(parts)


def _attend_group(
    queries_THD: Tensor, cache: KVCache, layer: int, group: Group, scaling: float | None, window: int | None
) -> Tensor:
    _, num_heads, head_dim = queries_THD.shape
    num_sequences, width = group.num_sequences, group.width
    shared = cache.layers[layer].kv_heads
    fold = num_heads // shared
    keys, values = cache.read(layer, group.slots, group.longest)
    mask = group.mask(fold, window, queries_THD.dtype)
    if group.pad is not None:
        queries_THD = queries_THD.index_select(0, group.pad)
    if fold == 1:
        queries = queries_THD.view(num_sequences, width, num_heads, head_dim).transpose(1, 2)
        out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=scaling)
        flat = out.transpose(1, 2).reshape(num_sequences * width, num_heads, head_dim)
        return flat if group.unpad is None else flat.index_select(0, group.unpad)
    # query heads that share a key-value head become extra queries: grouped attention without repeating keys
    queries = queries_THD.view(num_sequences, width, shared, fold, head_dim).permute(0, 2, 3, 1, 4)
    queries = queries.reshape(num_sequences, shared, fold * width, head_dim)
    out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=scaling)
    out = out.view(num_sequences, shared, fold, width, head_dim).permute(0, 3, 1, 2, 4)
    flat = out.reshape(num_sequences * width, num_heads, head_dim)
    return flat if group.unpad is None else flat.index_select(0, group.unpad)


# --------------------------------------------------------------------------- transformers' side


@dataclass(frozen=True, slots=True, eq=False)
class SlotStep:
    """The pass and the cache, as passed through a transformers model to its attention layers."""

    batch: ForwardBatch
    cache: KVCache


class ShapeRecorder:
    """Used once in place of a SlotStep: records what every layer caches; attends within the pass."""

    def __init__(self) -> None:
        self.layers: dict[int, LayerShape] = {}

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        if key.shape != value.shape or layer in self.layers:
            raise ConfigError(
                f"layer {layer} caches keys {tuple(key.shape)} and values {tuple(value.shape)}, or shares its "
                "cache with another layer; the engine needs equal shapes and one cache per layer"
            )
        self.layers[layer] = LayerShape(key.shape[1], key.shape[3], key.device)
        return F.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=True
        ).transpose(1, 2)


def slot_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    step: SlotStep | ShapeRecorder | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function: [1, H, T, D] queries and [1, G, T, D] keys and values -> [1, T, H, D].

    ``step`` is the extra keyword argument of the model's call. Raises ConfigError for what is not implemented:
    soft-capped scores, attention sinks, the model's own masks.
    """
    unsupported = {"softcap": softcap, "attention sinks": s_aux, "a mask of its own": attention_mask}
    for what, value_of in unsupported.items():
        if value_of is not None:
            raise ConfigError(f"{type(module).__name__} uses {what}, which the engine does not compute")
    if step is None:
        raise ConfigError(f"{type(module).__name__} does not pass keyword arguments on to its attention")
    layer: int = module.layer_idx  # type: ignore[assignment]
    if isinstance(step, ShapeRecorder):
        return step.attend(layer, query, key, value, scaling), None
    batch = step.batch.on(query.device)
    step.cache.write(layer, batch.where_T, key[0].transpose(0, 1), value[0].transpose(0, 1))
    queries_THD = query[0].transpose(0, 1).contiguous()
    return attend(queries_THD, step.cache, layer, batch, scaling, sliding_window)[None], None


def register() -> None:
    """Register ``set_attn_implementation("slots")`` with transformers; idempotent."""
    AttentionInterface.register(IMPLEMENTATION, slot_attention)
    AttentionMaskInterface.register(IMPLEMENTATION, lambda *args, **kwargs: None)
