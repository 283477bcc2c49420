"""Self-drafting by early exit: the model's first layers draft over its own cache (adasd.control.exits: DEL).

A drafted token writes keys and values only for the layers up to the exit, past the valid part of the cache. None of
that counts as cached once the block is done: the verify pass feeds the same positions through all layers and
overwrites them. So the target's state does not depend on the drafts, and the cache is shared without a copy.
Shape letters: E exits, N judged positions, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from adasd.control.exits import Exit, Exits
from adasd.engine.cache.kv_cache import KVCache
from adasd.engine.forward.batch import ForwardBatch
from adasd.engine.forward.fast_llama import FastLlama
from adasd.engine.forward.protocol import ForwardOver
from adasd.engine.work import Judged


class EarlyExitForward(ForwardOver):
    """A ``FastLlama`` that exits after ``batch.num_layers`` layers; full passes keep the exits' logits to learn."""

    def __init__(self, inner: FastLlama) -> None:
        super().__init__(inner, "early exit")
        self.early_exit = self
        self._llama = inner
        self._exits = Exits.of(len(inner.layers))
        self._at_exits: list[Tensor] = []  # of the latest full pass

    def __call__(self, batch: ForwardBatch, cache: KVCache) -> Tensor:
        depths = (batch.num_layers,) if batch.num_layers else (*self._exits.layers, self._exits.num_layers)
        *at_exits, logits = self._llama.logits_at(batch, cache, depths)
        self._at_exits = at_exits
        return logits

    def choose(self, max_tokens: int) -> Exit:
        return self._exits.best(max(1, max_tokens))

    def learn(self, positions: slice, logits_NV: Tensor, judged: Judged) -> None:
        """Compare the exits' top tokens with the model's, at the positions up to the first rejection."""
        num, vocab_size = judged.num_accepted + 1, logits_NV.shape[1]
        exits_ENV = torch.stack([at[positions][:num, :vocab_size] for at in self._at_exits])
        sure_EN, choices_EN = torch.softmax(exits_ENV.float(), dim=-1).max(dim=-1)
        hits_EN = choices_EN == logits_NV[:num].argmax(dim=-1)
        self._exits = self._exits.learn(hits_EN.tolist(), sure_EN.tolist())
