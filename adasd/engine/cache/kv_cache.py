"""Keys and values of all slots, allocated once.

Tensors ``[place, 2, kv_heads, head_dim]``, in which the layout finds the places of a slot: a token's keys and values
lie side by side, so that a forward pass writes both with one copy. Each layer has one; where the layout has several
tables of pages, it shares it with a layer of every other table. On a CPU the operating system commits each page of
memory when it is first written, so a slot costs only what it has held so far. On CUDA all memory is allocated at once.
After the last place comes a scratch place, which the padding of fixed-shape passes writes to; it is never read.
Shape letters: T tokens, H key-value heads, D head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from adasd.engine.cache import cpu_memory
from adasd.engine.cache.layers import LayerShape, cache_bytes_per_token, dealt, together
from adasd.engine.cache.layout import CacheLayout, PageCopy
from adasd.errors import ConfigError


class KVCache:
    """Preallocated storage for the places of a layout; the SlotTable knows which of them are valid."""

    def __init__(
        self, layers: list[LayerShape], layout: CacheLayout, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.layers, self.layout, self.dtype, self.device = layers, layout, dtype, device
        self.scratch = layout.num_places
        tables = together(layers) if len(layout.windows) == 1 else dealt(layers)
        assert len(tables.windows) == len(layout.windows), (tables, layout.windows)
        self.table_of = tables.table_of  # of pages, by layer
        widths = dict(zip(tables.tensor_of, (layer.values_per_token for layer in layers), strict=True))
        try:
            self._tensors = {
                number: _zeros((layout.num_places + 1, width), dtype, device)
                for number, width in widths.items()
            }
        except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
            num_gib = sum(widths.values()) * dtype.itemsize * layout.num_places / 2**30
            what = f"{layout.num_slots} slots of {layout.max_context} tokens"
            if layout.page_size is not None:
                what = f"{layout.num_places // layout.page_size} pages of {layout.page_size} tokens"
            raise ConfigError(
                f"a cache of {what} takes {num_gib:.1f} GiB, which {device} does not have free; lower num_slots, "
                "max_context or cache_bytes"
            ) from error
        self.tokens = [
            self._tensors[number] for number in tables.tensor_of
        ]  # by layer: [places + 1, 2 * H * D]

    @property
    def bytes_per_slot(self) -> int:
        """Bytes of one full slot."""
        return cache_bytes_per_token(self.layers, self.dtype) * self.layout.max_context

    def write(self, layer: int, where_T: Tensor, keys_THD: Tensor, values_THD: Tensor) -> None:
        """Store tokens at their places."""
        shape = self.layers[layer]
        kv = self.tokens[layer].view(-1, 2, shape.kv_heads, shape.head_dim)
        kv[:, 0].index_copy_(0, where_T, keys_THD)
        kv[:, 1].index_copy_(0, where_T, values_THD)

    def read(
        self, layer: int, slots: slice | Tensor, longest: int, tables: Sequence[Tensor] = ()
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of some slots, positions 0 to ``longest``: both [slots, H, longest, D].

        Views if ``slots`` is a slice of contiguous slots, else copies. Where the cache is paged, ``tables`` say which
        slots: the pages of each, [R, M].
        """
        if tables:
            return self._gather(layer, tables[self.table_of[layer]], longest)
        shape, per_token = self.layers[layer], self.layers[layer].values_per_token
        per_slot, half = self.layout.max_context * per_token, per_token // 2
        if isinstance(slots, slice):
            first, num = slots.start, slots.stop - slots.start
        else:
            first, num = 0, self.layout.num_slots
        size = (num, shape.kv_heads, longest, shape.head_dim)
        stride = (per_slot, shape.head_dim, per_token, 1)
        keys = self.tokens[layer].as_strided(size, stride, first * per_slot)
        values = self.tokens[layer].as_strided(size, stride, first * per_slot + half)
        if isinstance(slots, slice):
            return keys, values
        return keys.index_select(0, slots), values.index_select(0, slots)

    def pages(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values by page, both [pages, page size, H, D]; views. Only for a paged layout."""
        shape, size = self.layers[layer], self.layout.page_size
        assert size is not None, "contiguous slots have no pages"
        kv = self.tokens[layer][: self.scratch].view(-1, size, 2, shape.kv_heads, shape.head_dim)
        return kv[:, :, 0], kv[:, :, 1]

    def _gather(self, layer: int, tables_RM: Tensor, longest: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the slots with these pages, positions 0 to ``longest``: copies [R, H, longest, D]."""
        num = len(tables_RM)
        keys, values = (
            pages.index_select(0, tables_RM.flatten())
            .view(num, -1, *pages.shape[2:])[:, :longest]
            .transpose(1, 2)
            for pages in self.pages(layer)
        )
        return keys, values

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` tokens of one slot to another."""
        runs = zip(self.layout.runs(source, 0, length), self.layout.runs(target, 0, length), strict=True)
        for ours, theirs in runs:
            self.copy_places(ours, theirs)

    def copy_page(self, copy: PageCopy) -> None:
        """Copy the keys and values of one page to another."""
        self.copy_places(copy.source, copy.target)

    def scrub(self, slot: int, first: int) -> None:
        """Zero what the slot alone holds from a position on: masked places are multiplied by 0, which NaN survives."""
        for run in self.layout.owned(slot, first):
            self.zero_places(run)

    def copy_places(self, source: range, target: range) -> None:
        """Copy the keys and values of some places to as many others."""
        for kv in self._tensors.values():
            kv[target.start : target.stop].copy_(kv[source.start : source.stop])

    def zero_places(self, places: range) -> None:
        """Zero the keys and values of some places."""
        for kv in self._tensors.values():
            kv[places.start : places.stop].zero_()


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros; on a CPU as untouched pages (``torch.zeros`` would write them)."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return cpu_memory.zeros(prod(shape) * dtype.itemsize).view(dtype).view(shape)
