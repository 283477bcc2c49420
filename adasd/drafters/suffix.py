"""An online suffix automaton: the longest suffix of the text that occurred before, and what followed it.

The idea of SuffixDecoding (arXiv:2411.04975) on the automaton of SAM Decoding (arXiv:2411.10666): guesses follow the
most frequent path after the longest repeated suffix, at most as many as that suffix is long. An automaton takes a few
operations per token for any text, a suffix tree as many as its depth.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from adasd.drafters.index import Guess

SHORTEST_MATCH = 2
"""Shortest repeated suffix that leads to guesses, in tokens."""
GUESSES_PER_MATCH = 1.0
"""Most guesses per token of the repeated suffix; SuffixDecoding's alpha."""
COUNTED_LINKS = 32
"""Suffix links along which a new occurrence is counted; counts of shorter suffixes are then a little too low."""
SEPARATOR = -1
"""Separates two texts; it is never guessed, and no session's suffix contains it."""


class SuffixAutomaton:
    """States of all substrings of the text; state 0 is the empty string. ``adasd.drafters.index.Index``."""

    def __init__(self) -> None:
        self._next: list[dict[int, int]] = [{}]  # per state: token -> state
        self._link: list[int] = [-1]  # suffix link: state of the longest suffix that also ends elsewhere
        self._len: list[int] = [0]  # length of the state's longest substring
        self._count: list[int] = [0]  # occurrences of the state's substrings
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
        """Length of the longest suffix of the text that also occurs elsewhere in it, in tokens."""
        return self._len[max(0, self._link[self._last])]

    def guesses(self) -> Iterator[Guess]:
        return self.behind(max(0, self._link[self._last]), self.match_len)

    def advance(self, state: int, length: int, token: int) -> tuple[int, int]:
        """Match one more token of another text against this one: (new state, tokens matched)."""
        while state and token not in self._next[state]:
            state = self._link[state]
            length = self._len[state]
        state_after = self._next[state].get(token, 0)
        return state_after, (length + 1 if state_after else 0)

    def behind(self, state: int, match_len: int) -> Iterator[Guess]:
        """The most frequent path after a state whose match has ``match_len`` tokens."""
        if match_len < SHORTEST_MATCH:
            return
        for _ in range(math.ceil(GUESSES_PER_MATCH * match_len)):
            while state and not self._next[state]:  # end of the text: fall back to a shorter suffix
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
        """The online construction of Blumer et al. 1985, with counts."""
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
        """The state of ``state``'s longest substring plus the token; cloned from its successor if necessary."""
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
    """Entropy (nats) and largest share of the tokens that followed, with one extra count for unseen tokens."""
    total = sum(counts) + 1
    shares = [count / total for count in (*counts, 1)]
    return -sum(share * math.log(share) for share in shares), max(shares[:-1])
