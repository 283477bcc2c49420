"""Whose drafted tokens a pass judges when it cannot judge all: TETRIS (Wu et al., arXiv:2502.15197).

A token is worth the chance that it and everything before it in its block stands, as the draft sees it. Over all
blocks the worthiest tokens are taken; since worth falls along a block, what is taken of it is a prefix.

TETRIS scores a prefix by the product of q(x) of its tokens. Under sampling without a seed that is a bias: a token
that is dropped for being unlikely is one that the target draws again, without the rejection that q(x) would have
had. Here the factor is max q, which the distribution settles before the token is drawn (and which is q(x) for a greedy
draft). So whether a token is judged depends on the tokens before it and on other sessions, never on itself or on
what follows it, and a cut block is verified exactly (tests/statistical/test_exact_by_enumeration.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from operator import mul

Confidences = Sequence[float]
"""max q at each token of one block."""

Place = tuple[float, int, int]
"""Minus worth, position in the block, number of the block: in this order they are taken."""


def ranked(blocks: Sequence[Confidences]) -> list[Place]:
    """All tokens, the worthiest first; of equal ones the earlier in its block, so that prefixes stay whole."""
    return sorted(
        (-worth, position, block)
        for block, confidences in enumerate(blocks)
        for position, worth in enumerate(accumulate(confidences, mul))
    )


def share(budget: int, blocks: Sequence[Confidences]) -> list[int]:
    """Tokens of each block that are judged, ``budget`` in all or fewer."""
    return _lens(ranked(blocks)[: max(0, budget)], len(blocks))


def share_by_cost(blocks: Sequence[Confidences], pass_ms: Callable[[int], float | None]) -> list[int]:
    """As ``share`` with a budget that pays: tokens are taken while each raises the tokens per millisecond.

    ``pass_ms(n)`` is the time of a pass over n tokens; one per block is always computed. It stops at the first
    token that does not pay: a better budget behind it would depend on tokens that follow those it decides on.
    Everything is judged while nothing is known of times.
    """
    order = ranked(blocks)
    tokens, size = float(len(blocks)), len(blocks)
    now_ms = pass_ms(size)
    for taken, (minus_worth, _, _) in enumerate(order):
        next_ms = pass_ms(size + taken + 1)
        if now_ms is None or next_ms is None:
            return [len(block) for block in blocks]
        if (tokens - minus_worth) * now_ms < tokens * next_ms:
            return _lens(order[:taken], len(blocks))
        tokens, now_ms = tokens - minus_worth, next_ms
    return [len(block) for block in blocks]


def _lens(taken: Sequence[Place], num_blocks: int) -> list[int]:
    lens = [0] * num_blocks
    for _, _, block in taken:
        lens[block] += 1
    return lens
