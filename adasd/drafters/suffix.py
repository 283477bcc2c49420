"""A suffix automaton that grows with the text: the longest suffix that stood here before, and what followed it.

The idea of SuffixDecoding (arXiv:2411.04975) over the automaton of SAM Decoding (arXiv:2411.10666): guesses
follow the most frequent path behind the longest repeated suffix, at most as many as that suffix is long. An
automaton takes a few operations per token however the text looks, where a tree of suffixes takes its depth.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from adasd.drafters.index import Guess

SHORTEST_MATCH = 2
"""Tokens of repeated suffix below which nothing is guessed."""
GUESSES_PER_MATCH = 1.0
"""Guesses per token of the repeated suffix at most; SuffixDecoding's alpha."""
COUNTED_LINKS = 32
"""Suffix links along which a new occurrence is counted; the shorter suffixes behind stay a little behind."""
SEPARATOR = -1
"""Stands between two texts; never guessed, and no suffix that holds it is found again."""


class SuffixAutomaton:
    """States of all substrings of what was added. State 0 is the empty one. ``adasd.drafters.index.Index``."""

    def __init__(self) -> None:
        self._next: list[dict[int, int]] = [{}]  # per state: token -> state
        self._link: list[int] = [-1]  # the longest suffix that ends elsewhere, too
        self._len: list[int] = [0]  # of the longest substring that the state stands for
        self._count: list[int] = [0]  # how often it ends somewhere
        self._last = 0  # state of the whole text
        self._num_tokens = 0

    def __len__(self) -> int:
        return self._num_tokens

    def extend(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            self._append(token)
        self._num_tokens += len(tokens)

    @property
    def match_len(self) -> int:
        """Tokens of the longest suffix of the text that stands elsewhere in it, too."""
        return self._len[max(0, self._link[self._last])]

    def guesses(self) -> Iterator[Guess]:
        return self.behind(max(0, self._link[self._last]), self.match_len)

    def advance(self, state: int, length: int, token: int) -> tuple[int, int]:
        """Where a reader stands after one more token of a text that is not this one: (state, tokens matched)."""
        while state and token not in self._next[state]:
            state = self._link[state]
            length = self._len[state]
        state_after = self._next[state].get(token, 0)
        return state_after, (length + 1 if state_after else 0)

    def behind(self, state: int, match_len: int) -> Iterator[Guess]:
        """The most frequent path behind a state that stands for ``match_len`` tokens."""
        if match_len < SHORTEST_MATCH:
            return
        for _ in range(math.ceil(GUESSES_PER_MATCH * match_len)):
            while state and not self._next[state]:  # the end of the text: go on as its repetition would
                state = self._link[state]
            counts = {token: self._count[after] for token, after in self._next[state].items()}
            counts.pop(SEPARATOR, None)
            if not counts or not state:
                return
            token = max(counts, key=lambda one: (counts[one], self._next[state][one]))
            yield Guess(token, *_doubt(list(counts.values())))
            state = self._next[state][token]

    # ----------------------------------------------------------------------- growing

    def _append(self, token: int) -> None:
        """Blumer et al. 1985, with counts."""
        new = self._state(self._len[self._last] + 1, {}, count=0)
        state = self._last
        while state != -1 and token not in self._next[state]:
            self._next[state][token] = new
            state = self._link[state]
        if state == -1:
            self._link[new] = 0
        else:
            self._link[new] = self._split(state, token)
        self._last = new
        for _ in range(COUNTED_LINKS):
            self._count[new] += 1
            new = self._link[new]
            if new <= 0:
                break

    def _split(self, state: int, token: int) -> int:
        """The state for the substrings of ``state`` and the token; made if they end in more places than before."""
        after = self._next[state][token]
        if self._len[after] == self._len[state] + 1:
            return after
        clone = self._state(self._len[state] + 1, dict(self._next[after]), self._count[after])
        self._link[clone] = self._link[after]
        self._link[after] = clone
        while state != -1 and self._next[state].get(token) == after:
            self._next[state][token] = clone
            state = self._link[state]
        return clone

    def _state(self, length: int, transitions: dict[int, int], count: int) -> int:
        self._next.append(transitions)
        self._link.append(-1)
        self._len.append(length)
        self._count.append(count)
        return len(self._len) - 1


def _doubt(counts: Sequence[int]) -> tuple[float, float]:
    """Entropy (nats) and largest share of what followed, with one more count for what never did."""
    total = sum(counts) + 1
    shares = [count / total for count in (*counts, 1)]
    return -sum(share * math.log(share) for share in shares), max(shares[:-1])
