"""The cache of rank 0, whose every change but those of a pass is told to the other ranks first."""

from __future__ import annotations

import torch

from adasd.engine.cache.kv_cache import KVCache
from adasd.engine.cache.layers import LayerShape
from adasd.engine.cache.layout import CacheLayout
from adasd.engine.parallel.channel import Channel
from adasd.engine.parallel.plans import CopyPlaces, NewCache, ZeroPlaces, packed


class MirroredCache(KVCache):
    """Rank 0's shard. The other ranks hold theirs at the same places; they keep the newest cache only."""

    def __init__(
        self,
        layers: list[LayerShape],
        layout: CacheLayout,
        dtype: torch.dtype,
        device: torch.device,
        channel: Channel,
    ) -> None:
        self._channel = channel
        sizes = layout.num_slots, layout.max_context, layout.num_places, layout.page_size
        channel.send(packed(NewCache(*sizes, tuple(layout.windows))))
        super().__init__(layers, layout, dtype, device)

    def copy_places(self, source: range, target: range) -> None:
        self._channel.send(packed(CopyPlaces(source, target)))
        super().copy_places(source, target)

    def zero_places(self, places: range) -> None:
        self._channel.send(packed(ZeroPlaces(places)))
        super().zero_places(places)
