"""One session's look-up: answers draft calls as a draft worker does (adasd.ports.Drafter).

What is looked up is certain: every proposal has probability 1. Greedy match and shared noise ask no more; rejection
sampling is told so by draft distributions of one entry, and acceptance with probability p(x) and the residual p without
x give the target's distribution exactly. The entropies are the index's own doubt, for the rule that stops drafting.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np

from adasd.drafters.index import Guess, Index
from adasd.errors import StaleCache
from adasd.ports import Clock
from adasd.rounds import DraftBlock, DraftCall, DraftDistributions
from adasd.stop_rule import stops

PIECE = 512
"""Tokens that are indexed at once: under a millisecond or so, however long the prompt."""


class Lookup:
    """One session's text and its index; ``make`` makes an empty index."""

    def __init__(self, make: Callable[[], Index], clock: Clock = time.perf_counter) -> None:
        self._make, self._index, self._clock = make, make(), clock
        self._text: tuple[int, ...] = ()  # what the session believes to be cached here

    def draft(self, call: DraftCall) -> DraftBlock:
        """Read what is new, then guess by the rule. Raises StaleCache."""
        began_s = self._clock()
        for _ in self.read(call):
            pass
        return self.answer(call, began_s)

    def read(self, call: DraftCall) -> Iterator[None]:
        """Take in the call's text piece by piece."""
        if call.keep_len > len(self._text):
            raise StaleCache(call.session, call.keep_len, len(self._text))
        text, num_indexed = self._text[: call.keep_len] + call.feed, len(self._index)
        if text[:num_indexed] != self._text[:num_indexed]:  # an optimistic call did not come true
            self._index, num_indexed = self._make(), 0
        self._text = text
        for start in range(num_indexed, len(text), PIECE):
            self._index.extend(text[start : start + PIECE])
            yield

    def answer(self, call: DraftCall, began_s: float) -> DraftBlock:
        """The block behind what was read."""
        guesses = list(_until_it_stops(call, self._index.guesses()))
        tokens = tuple(guess.token for guess in guesses)
        base_len = len(self._text)
        self._text += tokens[:-1]  # as an engine, which feeds all drafted tokens but the last
        return DraftBlock(
            session=call.session,
            epoch=call.epoch,
            base_len=base_len,
            tokens=tokens,
            entropies=tuple(guess.entropy for guess in guesses),
            distributions=point_masses(tokens) if tokens and call.rule.row_len else None,
            compute_ms=1e3 * (self._clock() - began_s),
        )


def point_masses(tokens: Sequence[int]) -> DraftDistributions:
    """Distributions of proposals that could not have been others: each has probability 1."""
    ids = np.asarray(tokens, np.int32)[:, None]
    return DraftDistributions(ids, np.zeros(ids.shape, np.float32))


def _until_it_stops(call: DraftCall, guesses: Iterator[Guess]) -> Iterator[Guess]:
    entropies = []
    for guess in islice(guesses, call.rule.max_tokens):
        yield guess
        entropies.append(guess.entropy)
        if stops(call.rule, entropies, guess.max_prob):
            return
