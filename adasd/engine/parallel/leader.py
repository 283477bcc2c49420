"""Rank 0's forward pass: it tells the other ranks what comes, then computes its own shard with them."""

from __future__ import annotations

from torch import Tensor
from transformers import PreTrainedModel

from adasd.config import EngineConfig
from adasd.engine.cache.kv_cache import KVCache
from adasd.engine.cache.layout import CacheLayout
from adasd.engine.forward.batch import ForwardBatch
from adasd.engine.forward.batch_invariant import BatchInvariant
from adasd.engine.forward.modules import ModuleForward
from adasd.engine.forward.protocol import Forward, ForwardOver
from adasd.engine.parallel.channel import Channel
from adasd.engine.parallel.mirrored_cache import MirroredCache
from adasd.engine.parallel.plans import Pass, packed
from adasd.errors import RankLost


class Leading(ForwardOver):
    """A pass over all ranks. ``layers`` are those of one shard, and so is the cache."""

    def __init__(self, inner: Forward, channel: Channel, num_ranks: int) -> None:
        super().__init__(inner, f"{num_ranks} ranks")
        self._channel = channel

    def make_cache(self, layout: CacheLayout) -> KVCache:
        return MirroredCache(self.layers, layout, self.dtype, self.device, self._channel)

    def __call__(self, batch: ForwardBatch, cache: KVCache) -> Tensor:
        """As the protocol says. RankLost, whatever fails: ranks that stopped at different places cannot go on."""
        tables = range(len(cache.layout.windows))
        pages = tuple(tuple(tuple(cache.layout.pages(one.slot, k)) for k in tables) for one in batch.inputs)
        self._channel.send(packed(Pass(tuple(batch.inputs), pages)))
        try:
            return self.inner(batch, cache)
        except Exception as error:  # any device error, or a peer that is gone
            raise RankLost(self._channel.lost or f"the pass failed on rank 0: {error}") from error


def leading(model: PreTrainedModel, config: EngineConfig, channel: Channel) -> Forward:
    """The pass of rank 0 over its shard of the model, which it modifies; batch-invariant if ``deterministic``."""
    forward = Leading(ModuleForward(model), channel, config.tensor_parallel)
    return BatchInvariant(forward) if config.deterministic else forward
