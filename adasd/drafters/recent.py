"""Recent answers as a second text for look-ups, shared by all sessions of one process.

There are two generations: answers are added to the younger one; when it is full it replaces the older one. So memory
is bounded, and no token has to be removed from an automaton.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from adasd.drafters.index import Guess
from adasd.drafters.suffix import SEPARATOR, SuffixAutomaton


class RecentAnswers:
    """The newest answers: between half of ``capacity`` tokens and all (about half a kilobyte each)."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self.younger, self.older = SuffixAutomaton(), SuffixAutomaton()

    def add(self, answer: Sequence[int]) -> None:
        """Add a complete answer."""
        if not answer or len(answer) > self._capacity // 2:
            return
        if len(self.younger) + len(answer) >= self._capacity // 2:
            self.older, self.younger = self.younger, SuffixAutomaton()
        self.younger.extend([*answer, SEPARATOR])


@dataclass(slots=True)
class _Reader:
    """The longest suffix of a session's text that occurs in another text."""

    text: SuffixAutomaton
    state: int = 0
    match_len: int = 0

    def read(self, token: int) -> None:
        self.state, self.match_len = self.text.advance(self.state, self.match_len, token)


class RememberingIndex:
    """A session's own text and the recent answers; the longer match is used. ``adasd.drafters.index.Index``."""

    def __init__(self, recent: RecentAnswers) -> None:
        self._own = SuffixAutomaton()
        self._readers = [_Reader(recent.younger), _Reader(recent.older)]

    def __len__(self) -> int:
        return len(self._own)

    def extend(self, tokens: Sequence[int]) -> None:
        self._own.extend(tokens)
        for reader in self._readers:
            for token in tokens:
                reader.read(token)

    def guesses(self) -> Iterator[Guess]:
        best = max(self._readers, key=lambda reader: reader.match_len)
        if best.match_len > self._own.match_len:
            return best.text.behind(best.state, best.match_len)
        return self._own.guesses()
