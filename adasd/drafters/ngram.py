"""Prompt look-up: what followed an earlier occurrence of the last tokens (Saxena, 2023, prompt-lookup-decoding).

Longer n-grams are tried first; of several occurrences the newest counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from adasd.drafters.index import Guess

LONGEST, SHORTEST = 3, 2
"""Lengths of the n-grams that are looked up, in tokens."""


class NgramIndex:
    """The newest occurrence of every n-gram that has a successor. ``adasd.drafters.index.Index``."""

    def __init__(self) -> None:
        self._text: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # n-gram -> position after its newest occurrence

    def __len__(self) -> int:
        return len(self._text)

    def extend(self, tokens: Sequence[int]) -> None:
        text = self._text
        for token in tokens:
            for n in range(SHORTEST, LONGEST + 1):
                if n <= len(text):  # stored only now, when it has a successor
                    self._after[tuple(text[-n:])] = len(text)
            text.append(token)

    def guesses(self) -> Iterator[Guess]:
        text = self._text
        for n in range(min(LONGEST, len(text)), SHORTEST - 1, -1):
            place = self._after.get(tuple(text[-n:]))
            if place is not None:
                for token in text[place:]:
                    yield Guess(token, 0.0, 1.0)
                return
