"""Keys and values of all slots, allocated once.

One tensor per layer, ``[slot, position, 2, kv_heads, head_dim]``: a token's keys and values lie side by side,
so that a forward pass writes both with one copy. On a CPU the memory is zero pages that the operating system
commits when they are first written: a slot costs what it has held so far. On CUDA all of it is taken at once.
Behind the last slot lies one scratch place, for what fills a pass up to a fixed shape; nobody reads it.
Shape letters: S slots, C positions, T tokens, H key-value heads, D head dimension.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

import numpy as np
import torch
from torch import Tensor

from adasd.errors import ConfigError


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one layer caches per token."""

    kv_heads: int
    head_dim: int
    device: torch.device | None = field(default=None, compare=False)  # None: the cache's own

    @property
    def values_per_token(self) -> int:
        return 2 * self.kv_heads * self.head_dim


class KVCache:
    """Preallocated cache; which part of a slot is valid is known to the SlotTable."""

    def __init__(
        self,
        layers: list[LayerShape],
        num_slots: int,
        max_context: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.layers, self.num_slots, self.max_context = layers, num_slots, max_context
        self.dtype, self.device = dtype, device
        try:
            self.tokens = [  # [S * C + 1, 2 * H * D]
                _zeros((num_slots * max_context + 1, layer.values_per_token), dtype, layer.device or device)
                for layer in layers
            ]
        except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
            num_gib = cache_bytes_per_token(layers, dtype) * num_slots * max_context / 2**30
            raise ConfigError(
                f"a cache of {num_slots} slots of {max_context} tokens takes {num_gib:.1f} GiB, which {device} "
                "does not have free; lower num_slots or max_context"
            ) from error
        self.scratch = num_slots * max_context
        self._whole = [
            tokens[:-1].view(num_slots, max_context, 2, layer.kv_heads, layer.head_dim)
            for tokens, layer in zip(self.tokens, layers, strict=True)
        ]

    @property
    def bytes_per_slot(self) -> int:
        """Bytes of one full slot."""
        return cache_bytes_per_token(self.layers, self.dtype) * self.max_context

    def write(self, layer: int, where_T: Tensor, keys_THD: Tensor, values_THD: Tensor) -> None:
        """Store tokens at ``where_T = slot * max_context + position``."""
        shape = self.layers[layer]
        kv = self.tokens[layer].view(-1, 2, shape.kv_heads, shape.head_dim)
        kv[:, 0].index_copy_(0, where_T, keys_THD)
        kv[:, 1].index_copy_(0, where_T, values_THD)

    def read(self, layer: int, slots: slice | Tensor, longest: int) -> tuple[Tensor, Tensor]:
        """Keys and values of some slots up to a length, both [slots, H, longest, D]; views for a slice."""
        kv, shape = self._whole[layer], self.layers[layer]
        per_slot, per_token, half = kv.stride()[:3]
        if isinstance(slots, slice):
            first, num = slots.start, slots.stop - slots.start
        else:
            first, num = 0, self.num_slots
        size = (num, shape.kv_heads, longest, shape.head_dim)
        stride = (per_slot, shape.head_dim, per_token, 1)
        keys = kv.as_strided(size, stride, first * per_slot)
        values = kv.as_strided(size, stride, first * per_slot + half)
        if isinstance(slots, slice):
            return keys, values
        return keys.index_select(0, slots), values.index_select(0, slots)

    def copy(self, source: int, target: int, length: int) -> None:
        """The first so many tokens of one slot also stand in another."""
        for kv in self._whole:
            kv[target, :length].copy_(kv[source, :length])

    def scrub(self, slot: int, first: int) -> None:
        """Zero a slot from a position on: masked places still are multiplied by 0, which keeps NaN alive."""
        for kv in self._whole:
            kv[slot, first:].zero_()


def cache_bytes_per_token(layers: list[LayerShape], dtype: torch.dtype) -> int:
    """Bytes that one token takes in all layers together."""
    return sum(layer.values_per_token for layer in layers) * dtype.itemsize


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros; on a CPU untouched pages (``torch.zeros`` writes them, numpy asks for zeroed ones)."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(prod(shape) * dtype.itemsize, dtype=np.uint8)).view(dtype).view(shape)
