"""The interface between the engine and a forward pass.

Each optional ability of a forward pass is an attribute: an object that provides it, or None. So the engine need not
know which implementation it runs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from adasd.control.exits import Exit
from adasd.engine.cache.kv_cache import KVCache
from adasd.engine.cache.layers import LayerShape
from adasd.engine.cache.layout import CacheLayout
from adasd.engine.forward.batch import ForwardBatch
from adasd.engine.work import SHORT_FEED, DraftWork, Judged, Proposed


class MultiStepDraft(Protocol):
    """Drafts several tokens in a row without returning to the engine.

    For a small model, computing a token costs less than the Python bookkeeping of a step. The engine records the
    tokens afterwards, one by one. Fast twin of steps with ``sampler.propose_next``.
    """

    def can_draft(self, work: DraftWork) -> bool:
        """Whether it can serve this call."""
        ...

    def draft(
        self,
        batch: ForwardBatch,
        cache: KVCache,
        works: Sequence[DraftWork],
        vocab_size: int,
        limit: int,
        generator: torch.Generator,
    ) -> list[list[Proposed | None]]:
        """A list per pass: one token per session, or None once it has ended. At most ``limit`` passes.

        Only ids below ``vocab_size`` are drafted. Entropies are NaN where logits are not finite. Runner-up tokens
        are set if one of the calls wants them.
        """
        ...


class EarlyExit(Protocol):
    """Drafts with the model's own first layers (``ForwardBatch.num_layers``), and learns which exit pays."""

    def choose(self, max_tokens: int) -> Exit:
        """The exit layer and length of the next block."""
        ...

    def learn(self, positions: slice, logits_NV: Tensor, judged: Judged) -> None:
        """Learn from a verdict on these positions of the latest pass, with the full model's logits."""
        ...


class Forward(ABC):
    """One causal language model on one device; of several ranks, its shard."""

    name: str
    num_embeddings: int  # token ids that can be fed
    layers: list[LayerShape]  # what the cache must hold
    dtype: torch.dtype
    device: torch.device
    batch_invariant: bool = False  # a token's logits do not depend on the rest of the batch
    rounds_activations: bool = False  # so its logits are near the model's own
    has_threads: bool = False  # of its own; torch's would take their cores, as they spin between operations
    multi_step_draft: MultiStepDraft | None = None
    early_exit: EarlyExit | None = None
    sequence_cost: int = 3
    """On a CPU: extra cost of one more sequence in a pass, in tokens of one long sequence."""
    smallest_prefill: int = SHORT_FEED
    """On a CPU: fewest prompt tokens worth adding to a pass with other calls."""

    @abstractmethod
    def __call__(self, batch: ForwardBatch, cache: KVCache) -> Tensor:
        """Compute the pass and write it to the cache; logits [wanted tokens, V] in the model's dtype."""

    def make_cache(self, layout: CacheLayout) -> KVCache:
        """A cache for passes of this model."""
        return KVCache(self.layers, layout, self.dtype, self.device)

    def prepare(self, cache: KVCache, vocab_size: int) -> None:  # noqa: B027 (most have nothing to prepare)
        """Called once, before the first pass over ``cache``; only ids below ``vocab_size`` are drafted."""


class ForwardOver(Forward):
    """A forward pass that wraps another one and copies its description of the model."""

    def __init__(self, inner: Forward, what: str) -> None:
        self.inner, self.name = inner, f"{inner.name}, {what}"
        self.num_embeddings, self.layers = inner.num_embeddings, inner.layers
        self.dtype, self.device = inner.dtype, inner.device

    def make_cache(self, layout: CacheLayout) -> KVCache:
        return self.inner.make_cache(layout)
