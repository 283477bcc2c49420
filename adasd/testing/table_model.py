"""A language model made of three tables: deterministic, fast, and dependent on the whole prefix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Tables = NDArray[np.float64]


class TableModel:
    """Logits of the next token: sum of three table rows, by the last token, the one before, and the prefix's sum.

    The third table makes a wrong token anywhere in the prefix visible, as attention over a wrong cache would.
    """

    def __init__(self, tables: Tables) -> None:
        """``tables`` [3, V, V]: by last token, by the one before it (0 at the start), by sum modulo V."""
        assert tables.shape == (3, tables.shape[1], tables.shape[1]), tables.shape
        self.tables = tables

    @classmethod
    def random(cls, vocab_size: int = 16, seed: int = 0, sharpness: float = 2.0) -> TableModel:
        """Normal logits; a larger ``sharpness`` gives distributions of lower entropy."""
        return cls(np.random.default_rng(seed).normal(0.0, sharpness, (3, vocab_size, vocab_size)))

    def disturbed(self, noise: float, seed: int = 1) -> TableModel:
        """A draft for this model; the larger ``noise``, the less they agree."""
        return TableModel(self.tables + np.random.default_rng(seed).normal(0.0, noise, self.tables.shape))

    @property
    def vocab_size(self) -> int:
        return int(self.tables.shape[1])

    def logits(self, prefix: Sequence[int]) -> list[float]:
        """Logits [V] of the token that follows a prefix of at least one token."""
        last, before = prefix[-1], prefix[-2] if len(prefix) > 1 else 0
        rows = self.tables[0, last] + self.tables[1, before] + self.tables[2, sum(prefix) % self.vocab_size]
        return [float(z) for z in rows]

    def greedy(self, prompt: Sequence[int], num_tokens: int) -> list[int]:
        """The plain greedy continuation."""
        tokens = list(prompt)
        for _ in range(num_tokens):
            tokens.append(int(np.argmax(self.logits(tokens))))
        return tokens[len(prompt) :]
