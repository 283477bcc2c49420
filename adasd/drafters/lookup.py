"""One session's look-up: answers draft calls as a draft worker does (adasd.ports.Drafter).

A look-up is deterministic: every proposal has probability 1. Greedy match and shared noise need no more; for rejection
sampling, the draft distributions have one entry, and accepting with probability p(x), else drawing from p without x,
gives the target's distribution exactly. Entropies come from the index's counts and serve the stop rule.
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
"""Tokens that are indexed at once, in about a millisecond."""


class Lookup:
    """One session's text and its index; ``make`` makes an empty index."""

    def __init__(self, make: Callable[[], Index], clock: Clock = time.perf_counter) -> None:
        self._make, self._index, self._clock = make, make(), clock
        self._text: tuple[int, ...] = ()  # the tokens that the session counts as cached here

    def draft(self, call: DraftCall) -> DraftBlock:
        """Index the new tokens, then guess by the rule. Raises StaleCache."""
        began_s = self._clock()
        for _ in self.read(call):
            pass
        return self.answer(call, began_s)

    def read(self, call: DraftCall) -> Iterator[None]:
        """Index the call's tokens piece by piece."""
        if call.keep_len > len(self._text):
            raise StaleCache(call.session, call.keep_len, len(self._text))
        text, num_indexed = self._text[: call.keep_len] + call.feed, len(self._index)
        if text[:num_indexed] != self._text[:num_indexed]:  # an optimistic call's assumption was wrong
            self._index, num_indexed = self._make(), 0
        self._text = text
        for start in range(num_indexed, len(text), PIECE):
            self._index.extend(text[start : start + PIECE])
            yield

    def answer(self, call: DraftCall, began_s: float) -> DraftBlock:
        """The block after the indexed text."""
        guesses = list(_until_it_stops(call, self._index.guesses()))
        tokens = tuple(guess.token for guess in guesses)
        base_len = len(self._text)
        self._text += tokens[:-1]  # like an engine, which feeds all drafted tokens but the last
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
    """Draft distributions of deterministic proposals, each with probability 1."""
    ids = np.asarray(tokens, np.int32)[:, None]
    return DraftDistributions(ids, np.zeros(ids.shape, np.float32))


def _until_it_stops(call: DraftCall, guesses: Iterator[Guess]) -> Iterator[Guess]:
    entropies = []
    for guess in islice(guesses, call.rule.max_tokens):
        yield guess
        entropies.append(guess.entropy)
        if stops(call.rule, entropies, guess.max_prob):
            return
