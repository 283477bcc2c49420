"""Every token in a pass of its own: whatever else is in a batch, each row is computed by kernels of one shape.

Libraries choose their kernels, and with them the order of summation, by the number of rows. So the company of a
session may change its logits in their last bits and, now and then, a token (``load_tests.throughput.flip_rate``
counts). This wrapper rules that out for every architecture, format and device, at the price of batching: prompts are
read token by token, and sessions do not share the reading of the weights. The C kernels do not need it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from adasd.engine.cache.kv_cache import KVCache
from adasd.engine.forward.batch import ForwardBatch, Row
from adasd.engine.forward.modules import Forward


class BatchInvariant:
    """A ``Forward`` over another one."""

    def __init__(self, inner: Forward) -> None:
        self._inner = inner
        self.name = f"{inner.name}, token by token"
        self.num_embeddings, self.layers = inner.num_embeddings, inner.layers
        self.dtype, self.device = inner.dtype, inner.device

    def __call__(self, batch: ForwardBatch, cache: KVCache) -> Tensor:
        wanted = set(batch.wanted_at)
        tokens = zip(batch.slots, batch.positions, batch.ids, strict=True)
        return torch.cat(
            [
                self._inner(
                    ForwardBatch.build(
                        [Row(slot, position, (token,), int(at in wanted))], cache.max_context, self.device
                    ),
                    cache,
                )
                for at, (slot, position, token) in enumerate(tokens)
            ]
        )
