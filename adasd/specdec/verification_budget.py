"""Which drafted tokens the target judges if it cannot judge all: TETRIS (Wu et al., arXiv:2502.15197), by price.

A token's *worth* is the draft's estimate of the chance that it and all tokens before it in its block are accepted.
TETRIS judges the tokens of highest worth over all blocks of a pass. Two things in that would change what sampling
without a seed emits:

* It scores by q(x). A token that is dropped for being unlikely is drawn again by the target, without the rejection
  that it was due. Here worth is the product of max q, which is known before the token is drawn.
* It compares with the other blocks of the pass. Which those are depends on when a block arrives, that on its length,
  and that on its later tokens. So a token's fate would depend on what comes after it. Here a block is cut by a *price*
  that was fixed before it was drafted: the tokens of more worth than the price are judged, whoever shares the pass.

The price is the mean worth, over the last passes, of the first token that TETRIS would have refused there. So the
budget holds on average, not in every pass. tests/statistical/test_exact_by_enumeration.py shows both biases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul

Confidences = Sequence[float]
"""max q at each token of one block."""

WEIGHT = 0.2
"""Weight of a pass in the price."""


@dataclass(frozen=True, slots=True)
class SessionPrices:
    """Prices of a session's next blocks.

    While the target judges one block, the draft may be at work on the next. So a price that is known when a verdict
    leaves is fixed for the block after that one.
    """

    current: float = 0.0  # of the next block to be judged
    following: float = 0.0  # of the block after it

    def after_verdict(self, price: float) -> SessionPrices:
        return SessionPrices(self.following, price)


def judged_len(block: Confidences, price: float) -> int:
    """How many tokens of a block are worth more than the price; worth never rises along a block."""
    return sum(worth > price for worth in accumulate(block, mul))


def learned(price: float, refused: float) -> float:
    """The price after a pass that should have refused tokens of this worth."""
    return price + WEIGHT * (refused - price)


def refused_by_budget(budget: int, blocks: Sequence[Confidences]) -> float:
    """Worth of the likeliest token beyond the ``budget`` likeliest ones; 0 if all fit."""
    worths = ranked(blocks)
    return worths[budget] if budget < len(worths) else 0.0


def refused_by_cost(blocks: Sequence[Confidences], pass_ms: Callable[[int], float | None]) -> float:
    """Worth of the likeliest token that would lower the pass's tokens per millisecond; 0 if there is none.

    ``pass_ms(n)`` is the time of a pass over n tokens, None while unknown; one per block is always computed.
    """
    tokens, size = float(len(blocks)), len(blocks)
    now_ms = pass_ms(size)
    for worth in ranked(blocks):
        next_ms = pass_ms(size + 1)
        if now_ms is None or next_ms is None:
            return 0.0
        if (tokens + worth) * now_ms < tokens * next_ms:
            return worth
        tokens, size, now_ms = tokens + worth, size + 1, next_ms
    return 0.0


def ranked(blocks: Sequence[Confidences]) -> list[float]:
    """The worths of all tokens, the highest first."""
    return sorted((worth for block in blocks for worth in accumulate(block, mul)), reverse=True)
