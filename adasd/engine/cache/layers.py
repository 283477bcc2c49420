"""What the layers of a model cache, and which of them share a table of pages. Arithmetic, no tensors.

Where all layers see the same, they share one table. Where some see everything and others a window (Gemma 3, gpt-oss),
they are dealt out to tables of equally many layers of one kind, so that the windowed ones can give back what lies
behind them. A page holds the keys and values of one table's layers, whichever table takes it: one pool serves all (as
in vLLM's hybrid cache).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MOST_TABLES = 8
"""Each costs the host time in every pass."""

Windows = Sequence[int | None]
"""Of each table of pages: latest positions that a token sees, its own included; None: all."""


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one layer caches per token."""

    kv_heads: int
    head_dim: int
    window: int | None = field(default=None, compare=False)  # latest keys that a token sees; None: all

    @property
    def values_per_token(self) -> int:
        return 2 * self.kv_heads * self.head_dim


@dataclass(frozen=True, slots=True)
class LayerTables:
    """Tables of pages, and the layers of each. Layers of different tables share tensors."""

    windows: tuple[int | None, ...]
    table_of: tuple[int, ...]  # of each layer
    tensor_of: tuple[int, ...]  # of each layer


@dataclass(frozen=True, slots=True)
class CacheNeeds:
    """Bytes that a model caches, and the tables that a paged cache has for it."""

    bytes_per_token: int  # over all layers
    bytes_per_place: int  # over the layers of one table
    windows: Windows = (None,)

    @staticmethod
    def of(layers: Sequence[LayerShape], dtype: torch.dtype, num_caches: int = 1) -> CacheNeeds:
        """``num_caches``: ranks that a token's keys and values are divided among."""
        tables, per_token = dealt(layers), cache_bytes_per_token(layers, dtype)
        per_place = per_token
        if len(tables.windows) > 1:
            per_place = (1 + max(tables.tensor_of)) * layers[0].values_per_token * dtype.itemsize
        return CacheNeeds(per_token // num_caches, per_place // num_caches, tables.windows)


def cache_bytes_per_token(layers: Sequence[LayerShape], dtype: torch.dtype) -> int:
    """Bytes that one token takes, over all layers."""
    return sum(layer.values_per_token for layer in layers) * dtype.itemsize


def together(layers: Sequence[LayerShape]) -> LayerTables:
    """All layers in one table; it has the widest of their windows, if all of them have one."""
    windows = [layer.window for layer in layers]
    widest = None if None in windows else max(window for window in windows if window is not None)
    return LayerTables((widest,), (0,) * len(layers), tuple(range(len(layers))))


def dealt(layers: Sequence[LayerShape]) -> LayerTables:
    """Layers with a window apart from those that see everything, if all cache equally much."""
    full = [i for i, layer in enumerate(layers) if layer.window is None]
    windowed = [i for i, layer in enumerate(layers) if layer.window is not None]
    if not full or not windowed or any(layer != layers[0] for layer in layers):
        return together(layers)
    windowed.sort(key=lambda i: layers[i].window or 0)
    size = _layers_per_table(len(full), len(windowed))
    tables = [kind[i : i + size] for kind in (full, windowed) for i in range(0, len(kind), size)]
    table_of, tensor_of = [0] * len(layers), [0] * len(layers)
    for number, table in enumerate(tables):
        for tensor, layer in enumerate(table):
            table_of[layer], tensor_of[layer] = number, tensor
    return LayerTables(
        tuple(together([layers[i] for i in table]).windows[0] for table in tables),
        tuple(table_of),
        tuple(tensor_of),
    )


def _layers_per_table(num_full: int, num_windowed: int) -> int:
    """The size with which a token takes least in tables without a window, then in those with one; then, few tables."""

    def cost(size: int) -> tuple[int, int, int]:
        full, windowed = -(-num_full // size), -(-num_windowed // size)
        return full * size, windowed * size, full + windowed

    sizes = range(1, max(num_full, num_windowed) + 1)
    return min((size for size in sizes if cost(size)[2] <= MOST_TABLES), key=cost)
