"""Drafting by the first layers of the very model that judges, over its own cache (adasd.control.exits: DEL).

A drafted token writes keys and values of the layers up to the exit only, behind everything that is valid. None of
that counts as cached when the block is done: the verdict's pass feeds the same positions through all layers and
writes over them. So nothing of the target's state depends on what was drafted, and the cache is shared without a copy.
Shape letters: E exits, N judged rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adasd.control.exits import Exit, Exits
from adasd.engine.work import DraftWork, Judged, Result
from adasd.errors import StaleCache
from adasd.specdec.stop_rule import stops

NOWHERE = Exit(1, 1, 0.0)
"""Until the engine says where."""


@dataclass(slots=True)
class EarlyWork(DraftWork):
    """A draft call on the target's own slot. The cache keeps what it held; the call's feed reaches beyond it."""

    leave: Exit = NOWHERE

    def __post_init__(self) -> None:
        self.first_fed = self.slot.cached_len
        if self.call.keep_len > self.first_fed:
            raise StaleCache(self.call.session, self.call.keep_len, self.first_fed)
        wanted = self.call.rule.max_tokens > 0
        self.tokens = list(self.call.feed[self.first_fed - self.call.keep_len :]) if wanted else []

    def take(self, new: Result) -> None:
        DraftWork.take(self, new)
        drafted = self.proposed[-1]
        surely = len(self.proposed) < self.leave.length and drafted.max_prob >= self.leave.confidence_floor
        if not surely and not stops(self.call.rule, len(self.proposed), drafted.entropy, drafted.max_prob):
            self.tokens.pop()  # it ends the block here, and is never fed

    def done_with(self) -> None:
        """What was fed counts as cached no longer."""
        self.slot.cut(self.first_fed)


class ShadowTokens:
    """What an engine whose model drafts for itself has learned of its exits. One thread."""

    def __init__(self, num_layers: int) -> None:
        self.exits = Exits.of(num_layers)

    def leave(self, work: EarlyWork) -> Exit:
        """The exit of the next block."""
        return self.exits.best(max(1, work.call.rule.max_tokens))

    def learn(self, logits_ENV: Sequence[Tensor], own_NV: Tensor, judged: Judged) -> None:
        """Compare the exits' first choices with the model's where it counts: up to the first rejection."""
        num = judged.num_accepted + 1
        laws_ENV = torch.softmax(torch.stack([logits_NV[:num] for logits_NV in logits_ENV]).float(), dim=-1)
        sure_EN, choices_EN = laws_ENV.max(dim=-1)
        hits_EN = choices_EN == own_NV[:num].argmax(dim=-1)
        self.exits = self.exits.learn(hits_EN.tolist(), sure_EN.tolist())
