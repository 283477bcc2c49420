"""The interface of a look-up: an index over a growing text that guesses its continuation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Guess:
    """One token that may follow, and the index's confidence."""

    token: int
    entropy: float  # nats, of the tokens that followed in the index; 0 if the index does not count them
    max_prob: float  # share of the guessed token among them


class Index(Protocol):
    """An index over one text, which only grows at its end."""

    def __len__(self) -> int:
        """Tokens indexed."""
        ...

    def extend(self, tokens: Sequence[int]) -> None:
        """Append tokens of the text."""
        ...

    def guesses(self) -> Iterator[Guess]:
        """Guessed continuation, as far as the index is confident; does not change the index."""
        ...
