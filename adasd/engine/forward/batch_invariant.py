"""Every token in a pass of its own: whatever else is in a batch, each is computed by kernels of one shape.

Libraries choose their kernels, and with them the order of summation, by the number of tokens. So the company of a
session may change its logits in their last bits and, now and then, a token (``load_tests.throughput.flip_rate``
counts). This wrapper rules that out for every architecture, format and device, at the price of batching: prompts are
read token by token, and sessions do not share the reading of the weights. The C kernels do not need it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from adasd.engine.cache.kv_cache import KVCache
from adasd.engine.forward.batch import ForwardBatch
from adasd.engine.forward.protocol import Forward, ForwardOver
from adasd.engine.work import StepInput


class BatchInvariant(ForwardOver):
    """Logits that nothing else in a batch can change."""

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
