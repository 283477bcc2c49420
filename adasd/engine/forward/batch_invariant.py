"""Batch invariance by computing every token in its own pass, so that kernels always see the same shape.

Libraries choose their kernels, and so the order of summation, by the number of tokens. So the other sessions of a
batch may change the last bits of a session's logits and, now and then, a token (``load_tests.throughput.flip_rate``
counts how often). This wrapper rules that out for every architecture, dtype and device, at the price of batching:
prompts are read token by token, and sessions do not share a read of the weights. The C kernels do not need it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from adasd.engine.cache.kv_cache import KVCache
from adasd.engine.forward.batch import ForwardBatch
from adasd.engine.forward.protocol import Forward, ForwardOver
from adasd.engine.work import StepInput


class BatchInvariant(ForwardOver):
    """Logits that do not depend on the rest of the batch."""

    batch_invariant = True

    def __init__(self, inner: Forward) -> None:
        super().__init__(inner, "token by token")

    def __call__(self, batch: ForwardBatch, cache: KVCache) -> Tensor:
        wanted = set(batch.wanted_at)
        tokens = zip(batch.slots, batch.positions, batch.ids, strict=True)
        inputs = [
            StepInput(slot, at, (token,), int(i in wanted)) for i, (slot, at, token) in enumerate(tokens)
        ]
        passes = (ForwardBatch([one], cache.layout, self.device) for one in inputs)
        return torch.cat([self.inner(one, cache) for one in passes])
