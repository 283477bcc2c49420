"""What a lookup is: an index over a growing text that guesses how the text goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Guess:
    """One token that may follow, and how sure the index is of it."""

    token: int
    entropy: float  # nats, of what followed in the index; 0 where it does not count
    max_prob: float  # share of the guessed token in it


class Index(Protocol):
    """Grows at its end only; one text, one index."""

    def __len__(self) -> int:
        """Tokens indexed."""
        ...

    def extend(self, tokens: Sequence[int]) -> None:
        """Append tokens of the text."""
        ...

    def guesses(self) -> Iterator[Guess]:
        """How the text goes on, as far as the index would bet; changes nothing."""
        ...
