"""Attention of flat tokens over the slots of the cache, for our own forward and for transformers' modules.

Shape letters: T tokens of all sequences, R sequences of a group, N tokens of its longest one, L longest cached
length, H query heads, G key-value heads, F = H / G query heads per key-value head, D head dimension.
Keys and values of unequal width are padded with zeros to the wider of the two, which changes no score and no sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from adasd.engine.cache.kv_cache import KVCache
from adasd.engine.cache.layers import LayerShape
from adasd.engine.forward.batch import ForwardBatch, Group
from adasd.engine.forward.paged_attention import attend_pages, serves
from adasd.errors import ConfigError

IMPLEMENTATION = "slots"
"""Name under which transformers finds ``slot_attention``."""


@dataclass(frozen=True, slots=True, eq=False)
class ScoreRule:
    """What happens to attention scores besides scaling and masking. Fused kernels do not know it."""

    softcap: float | None = None  # scores become softcap * tanh(score / softcap) (Gemma 2)
    sinks_H: Tensor | None = None  # a score per head that takes weight and gives nothing (gpt-oss)


def attend(
    queries_THD: Tensor,
    cache: KVCache,
    layer: int,
    batch: ForwardBatch,
    scaling: float | None = None,
    window: int | None = None,
    rule: ScoreRule | None = None,
) -> Tensor:
    """Attention over the cache, including this pass's own keys and values: [T, H, D]."""
    if rule is not None and batch.is_fixed:
        raise ConfigError("attention with capped scores or sinks is not recorded")
    if cache.layout.page_size is not None and rule is None and serves(queries_THD):
        return attend_pages(queries_THD, cache, layer, batch.tables[cache.table_of[layer]], scaling, window)
    if len(batch.groups) == 1:
        return _attend_group(queries_THD, cache, layer, batch.groups[0], scaling, window, rule)
    parts = [
        _attend_group(queries_THD[group.first : group.last], cache, layer, group, scaling, window, rule)
        for group in batch.groups
    ]
    return torch.cat(parts)


def _attend_group(
    queries_THD: Tensor,
    cache: KVCache,
    layer: int,
    group: Group,
    scaling: float | None,
    window: int | None,
    rule: ScoreRule | None,
) -> Tensor:
    _, num_heads, head_dim = queries_THD.shape
    num_sequences, width = group.num_sequences, group.width
    shared = cache.layers[layer].kv_heads
    fold = num_heads // shared
    keys, values = cache.read(layer, group.slots, group.longest, group.tables)
    mask = group.mask(fold, window, queries_THD.dtype)
    if group.pad is not None:
        queries_THD = queries_THD.index_select(0, group.pad)
    if fold == 1 and rule is None:
        queries = queries_THD.view(num_sequences, width, num_heads, head_dim).transpose(1, 2)
        out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=scaling)
        flat = out.transpose(1, 2).reshape(num_sequences * width, num_heads, head_dim)
        return flat if group.unpad is None else flat.index_select(0, group.unpad)
    # query heads that share a key-value head become extra queries: grouped attention without repeating keys
    queries = queries_THD.view(num_sequences, width, shared, fold, head_dim).permute(0, 2, 3, 1, 4)
    queries = queries.reshape(num_sequences, shared, fold * width, head_dim)
    if rule is None:
        out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=scaling)
    else:
        out = _attend_by_rule(queries, keys, values, mask, scaling, rule)
    out = out.view(num_sequences, shared, fold, width, head_dim).permute(0, 3, 1, 2, 4)
    flat = out.reshape(num_sequences * width, num_heads, head_dim)
    return flat if group.unpad is None else flat.index_select(0, group.unpad)


def _attend_by_rule(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scaling: float | None, rule: ScoreRule
) -> Tensor:
    """Queries [R, G, F * N, D] over keys and values [R, G, L, D]; the softmax is computed in float32."""
    scores = (queries @ keys.transpose(-1, -2)).float() * (scaling or queries.shape[-1] ** -0.5)
    if rule.softcap is not None:
        scores = torch.tanh(scores / rule.softcap) * rule.softcap
    if mask is not None:
        scores = scores + mask
    if rule.sinks_H is None:
        return scores.softmax(dim=-1).to(values.dtype) @ values
    num_sequences, shared, stacked, _ = scores.shape  # stacked: N queries of the first head, then of the next
    sinks_GF = rule.sinks_H.float().view(shared, -1)
    sinks = sinks_GF.repeat_interleave(stacked // sinks_GF.shape[1], dim=1)
    sinks = sinks[None, :, :, None].expand(num_sequences, -1, -1, -1)
    weights = torch.cat([scores, sinks], dim=-1).softmax(dim=-1)[..., :-1]
    return weights.to(values.dtype) @ values


# --------------------------------------------------------------------------- transformers' side


@dataclass(frozen=True, slots=True, eq=False)
class SlotStep:
    """The pass and the cache, as passed through a transformers model to its attention layers."""

    batch: ForwardBatch
    cache: KVCache


@dataclass(frozen=True, slots=True)
class WindowMask:
    """Stands for transformers' mask of a layer that sees the latest ``size`` tokens only."""

    size: int


class ShapeRecorder:
    """Used once in place of a SlotStep: records what every layer caches and sees; tokens attend to themselves only."""

    def __init__(self) -> None:
        self.layers: dict[int, LayerShape] = {}

    def attend(
        self, layer: int, num_heads: int, key: Tensor, value: Tensor, window: int | None = None
    ) -> Tensor:
        """Keys [1, G, T, D] and values [1, G, T, E]; returns [1, T, H, E]."""
        self.record(layer, key, value, window)
        return value.repeat_interleave(num_heads // value.shape[1], dim=1).transpose(1, 2).contiguous()

    def record(self, layer: int, key: Tensor, value: Tensor, window: int | None = None) -> None:
        """Note a layer's shape and window; ConfigError if it caches twice."""
        if key.shape[:3] != value.shape[:3] or layer in self.layers:
            raise ConfigError(
                f"layer {layer} caches keys {tuple(key.shape)} and values {tuple(value.shape)}, or caches several "
                "times; the engine needs one key and one value per token, head and layer"
            )
        width = max(key.shape[3], value.shape[3])
        self.layers[layer] = LayerShape(key.shape[1], width, window)

    def shapes(self, name: str) -> list[LayerShape]:
        """The layers in order; ConfigError unless every layer of the model called ``name`` was recorded."""
        if not self.layers or sorted(self.layers) != list(range(len(self.layers))):
            raise ConfigError(
                f"{name} sends layers {sorted(self.layers)} to the attention function; the engine needs all of "
                "them, numbered from 0"
            )
        return [self.layers[i] for i in range(len(self.layers))]


def widened(tensor: Tensor, width: int) -> Tensor:
    """Padded with zeros at the end of the last dimension, up to ``width``."""
    missing = width - tensor.shape[-1]
    return F.pad(tensor, (0, missing)) if missing else tensor


def slot_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | WindowMask | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    step: SlotStep | ShapeRecorder | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function: [1, H, T, D] queries and [1, G, T, D] keys and values -> [1, T, H, D].

    ``step`` is the extra keyword argument of the model's call. Raises ConfigError for masks of the model's own.
    A window is read from the mask, as its keyword is not passed on by every model.
    """
    if isinstance(attention_mask, Tensor):
        raise ConfigError(
            f"{type(module).__name__} uses a mask of its own, which the engine does not compute"
        )
    if step is None:
        raise ConfigError(f"{type(module).__name__} does not pass keyword arguments on to its attention")
    layer: int = module.layer_idx  # type: ignore[assignment]
    window = None if attention_mask is None else attention_mask.size
    if isinstance(step, ShapeRecorder):
        return step.attend(layer, query.shape[1], key, value, window), None
    batch, width = step.batch, step.cache.layers[layer].head_dim
    keys, values = (widened(each[0].transpose(0, 1), width) for each in (key, value))
    step.cache.write(layer, batch.where_T[step.cache.table_of[layer]], keys, values)
    queries_THD = widened(query[0].transpose(0, 1), width).contiguous()
    rule = None if softcap is None and s_aux is None else ScoreRule(softcap, s_aux)
    scaling = scaling or query.shape[-1] ** -0.5
    out = attend(queries_THD, step.cache, layer, batch, scaling, window, rule)
    return out[None, ..., : value.shape[-1]], None


def slot_mask(local_size: int | None = None, **_: Any) -> WindowMask | None:
    """transformers' mask function: attention over slots is causal by itself."""
    return None if local_size is None else WindowMask(local_size)


def register() -> None:
    """Register ``set_attn_implementation("slots")`` with transformers; idempotent."""
    AttentionInterface.register(IMPLEMENTATION, slot_attention)
    AttentionMaskInterface.register(IMPLEMENTATION, slot_mask)


def prepare_device(device: torch.device) -> None:
    """Settings of torch for attention on this device.

    cuDNN's attention builds a plan for each shape, 55 to 440 ms each, and passes here have a new length every time
    (flashinfer#5245, sglang#4650).
    """
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)
