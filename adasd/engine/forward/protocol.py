"""What the engine asks of a forward pass, and what a forward pass says of itself.

A pass declares what it can do beyond logits by attributes: an object that does it, or None. So the engine never has
to know which pass it runs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from adasd.control.exits import Exit
from adasd.engine.cache.kv_cache import KVCache, LayerShape
from adasd.engine.forward.batch import ForwardBatch
from adasd.engine.work import SHORT_FEED, DraftWork, Judged, Proposed


class MultiStepDraft(Protocol):
    """Goes on with what it drafts, for several tokens, without the host.

    A drafted token of a small model costs less to compute than the bookkeeping of a step costs in Python. The
    tokens pass through the engine's books afterwards, one by one. The fast twin of steps with
    ``sampler.propose_next``.
    """

    def can_draft(self, work: DraftWork) -> bool:
        """Whether it serves this call."""
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
        """Pass by pass one token of every session, None from its end on; at most ``limit`` passes.

        Only ids below ``vocab_size`` are drafted. Entropies are NaN where logits are not finite. Second choices are
        told if one of the sessions asks for them.
        """
        ...


class EarlyExit(Protocol):
    """Drafts for its own model by its first layers (``ForwardBatch.num_layers``), and learns which of them do."""

    def choose(self, max_tokens: int) -> Exit:
        """Where the next block leaves, and how far it goes."""
        ...

    def learn(self, positions: slice, logits_NV: Tensor, judged: Judged) -> None:
        """A verdict on these positions of the newest pass, by these logits of the whole model."""
        ...


class Forward(ABC):
    """One causal language model on one device, or on several."""

    name: str
    num_embeddings: int  # token ids that can be fed
    layers: list[LayerShape]  # what the cache must hold
    dtype: torch.dtype
    device: torch.device
    batch_invariant: bool = False  # whatever else is in a pass, a token's logits are the same to the last bit
    multi_step_draft: MultiStepDraft | None = None
    early_exit: EarlyExit | None = None
    sequence_cost: int = 3
    """On a CPU a sequence of a pass takes as long as its tokens and so many more, in one long sequence, would."""
    smallest_prefill: int = SHORT_FEED
    """Prompt tokens that are worth a pass beside others, on a CPU."""

    @abstractmethod
    def __call__(self, batch: ForwardBatch, cache: KVCache) -> Tensor:
        """Write the pass into the cache; logits [wanted tokens, V] in the model's dtype."""

    def prepare(self, cache: KVCache, vocab_size: int) -> None:  # noqa: B027 (most have nothing to prepare)
        """Called once, before the first pass over ``cache``; drafts take ids below ``vocab_size``."""


class ForwardOver(Forward):
    """A forward pass over another one, of which it keeps what it says of the model."""

    def __init__(self, inner: Forward, what: str) -> None:
        self.inner, self.name = inner, f"{inner.name}, {what}"
        self.num_embeddings, self.layers = inner.num_embeddings, inner.layers
        self.dtype, self.device = inner.dtype, inner.device
