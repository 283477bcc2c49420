"""Attention over pages on CUDA, by FlashAttention as torch has it (``torch.nn.attention.varlen``).

Its slow twin gathers the pages first (``attention``), which also serves what FlashAttention does not.
Shape letters: T tokens of all sequences, H query heads, D head dimension.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn_out

from adasd.engine.cache.kv_cache import KVCache
from adasd.engine.forward.batch import PageTables

LARGEST_HEAD = 256


def serves(queries_THD: Tensor) -> bool:
    """Whether FlashAttention computes this."""
    return fits(queries_THD.dtype, queries_THD.shape[-1], queries_THD.device)


def fits(dtype: torch.dtype, head_dim: int, device: torch.device) -> bool:
    """FlashAttention takes 16-bit numbers, heads of at most 256, and an Ampere card or a later one."""
    sixteen_bits = dtype in (torch.bfloat16, torch.float16)
    return sixteen_bits and head_dim <= LARGEST_HEAD and device.type == "cuda" and _is_recent(device)


@functools.cache
def _is_recent(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device)[0] >= 8


def attend_pages(
    queries_THD: Tensor,
    cache: KVCache,
    layer: int,
    tables: PageTables,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    """Causal attention over the cache, including this pass's own keys and values: [T, H, D].

    ``window``: number of latest keys that are visible. ``num_splits`` is 1, as other values give wrong rows
    (pytorch#194167).
    """
    out_THD = torch.empty_like(queries_THD, memory_format=torch.contiguous_format)
    keys, values = cache.pages(layer)
    varlen_attn_out(
        out_THD,
        queries_THD,
        keys,
        values,
        tables.first_query_R1,
        tables.first_key_R1,
        tables.max_queries,
        tables.max_keys,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=True,
        seqused_k=tables.used_R,
        block_table=tables.pages_RM,
        num_splits=1,
    )
    return out_THD
