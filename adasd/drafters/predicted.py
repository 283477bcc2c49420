"""A predicted answer as a text for look-ups: what the caller expects to read, as in OpenAI's predicted outputs.

While the answer follows the prediction, its rest is guessed. Once the answer has left it, the place is found again by
the last tokens, as prompt look-up does (Saxena, 2023), at the next place behind the old one if there are several.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from adasd.drafters.index import Guess, Index
from adasd.drafters.ngram import LONGEST, SHORTEST


@dataclass(frozen=True, slots=True)
class Prediction:
    """Tokens that the caller expects as the answer to a prompt of ``prompt_len`` tokens."""

    tokens: tuple[int, ...]
    prompt_len: int


class PredictedIndex:
    """Guesses from the prediction, and from the text itself (an index by ``make``) where that has no place.

    ``adasd.drafters.index.Index``.
    """

    def __init__(self, prediction: Prediction, make: Callable[[], Index]) -> None:
        self._predicted, self._prompt_len, self._own = prediction.tokens, prediction.prompt_len, make()
        self._place: int | None = 0  # of the next token in the prediction; None: the answer has left it
        self._newest_place = 0  # the last place that was known
        self._tail: tuple[int, ...] = ()  # last tokens of the answer
        self._after: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)  # n-gram -> places behind it
        for n in range(SHORTEST, LONGEST + 1):
            for start in range(len(self._predicted) - n):
                self._after[self._predicted[start : start + n]].append(start + n)

    def __len__(self) -> int:
        return len(self._own)

    def extend(self, tokens: Sequence[int]) -> None:
        num_of_prompt = max(0, self._prompt_len - len(self._own))
        self._own.extend(tokens)
        for token in tokens[num_of_prompt:]:
            self._read(token)

    def guesses(self) -> Iterator[Guess]:
        if self._place is None or self._place >= len(self._predicted):
            return self._own.guesses()
        return (Guess(token, 0.0, 1.0) for token in self._predicted[self._place :])

    def _read(self, token: int) -> None:
        self._tail = (*self._tail, token)[-LONGEST:]
        place = self._place
        if place is not None and self._predicted[place : place + 1] == (token,):
            self._place = place + 1
        else:
            self._place = self._found()
        if self._place is not None:
            self._newest_place = self._place

    def _found(self) -> int | None:
        """The place behind the longest n-gram that ends the answer."""
        for n in range(min(LONGEST, len(self._tail)), SHORTEST - 1, -1):
            if places := self._after.get(self._tail[-n:]):
                return next((place for place in places if place > self._newest_place), places[-1])
        return None
