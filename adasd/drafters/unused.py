"""A look-up that an answer does not use, judged on the text that the target writes anyway.

HedgeSpec (arXiv:2510.20064) scores every draft on such text, so that none has to be tried. A look-up costs nothing to
score: at each point it is known what it would have guessed, and soon after how much of that was right.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from adasd.control.draft_choice import Judged
from adasd.drafters.index import Index

LONGEST = 8
"""Tokens of a block that counts; longer ones say little more."""
PIECE = 256
"""Prompt tokens that are read per round, in less than a millisecond."""


class UnusedLookup:
    """One answer's text as a look-up sees it."""

    def __init__(self, index: Index, prompt: Sequence[int]) -> None:
        self._index, self._unread = index, list(prompt)
        self._guesses: list[int] | None = None  # the block under way
        self._num_right = 0

    def follow(self, tokens: Sequence[int]) -> Judged:
        """Read what was written, and tell of the rounds that ended in it; none while the prompt is being read."""
        if self._unread:
            self._unread += tokens
            piece, self._unread = self._unread[:PIECE], self._unread[PIECE:]
            self._index.extend(piece)
            return Judged()
        done = Judged()
        for token in tokens:
            if self._guesses is None:
                self._guesses = [guess.token for guess in islice(self._index.guesses(), LONGEST)]
                self._num_right = 0
            if self._num_right < len(self._guesses) and self._guesses[self._num_right] == token:
                self._num_right += 1
            else:  # the target's own token, which ends a round
                done = done.plus(self._num_right + 1, len(self._guesses))
                self._guesses = None
            self._index.extend([token])
        return done
