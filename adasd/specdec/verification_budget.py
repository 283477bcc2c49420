"""Which drafted tokens a forward pass judges if it cannot judge all: TETRIS (Wu et al., arXiv:2502.15197).

A token's worth is the draft's estimate of the chance that it and all tokens before it in its block are accepted. The
tokens of highest worth over all blocks are taken; worth falls along a block, so a prefix of each block is taken.

TETRIS scores a prefix by the product of q(x) of its tokens. That biases sampling without a seed: dropping a token
because it is unlikely lets the target draw it again, without the rejection test at q(x). Here the factor is max q,
which is fixed before the token is drawn (and equals q(x) for a greedy draft). So whether a token is judged depends on
the tokens before it and on other sessions, never on the token itself or on later ones, and a cut block is verified
exactly (tests/statistical/test_exact_by_enumeration.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from operator import mul

Confidences = Sequence[float]
"""max q at each token of one block."""

Place = tuple[float, int, int]
"""Minus worth, index in the block, number of the block; tokens are taken in this order."""


def ranked(blocks: Sequence[Confidences]) -> list[Place]:
    """All tokens by falling worth; ties by index in the block, so that what is taken is always a prefix."""
    return sorted(
        (-worth, position, block)
        for block, confidences in enumerate(blocks)
        for position, worth in enumerate(accumulate(confidences, mul))
    )


def share(budget: int, blocks: Sequence[Confidences]) -> list[int]:
    """Number of tokens of each block to judge, at most ``budget`` in total."""
    return _lens(ranked(blocks)[: max(0, budget)], len(blocks))


def share_by_cost(blocks: Sequence[Confidences], pass_ms: Callable[[int], float | None]) -> list[int]:
    """As ``share`` with a budget from measured times: take tokens while each raises the tokens per millisecond.

    ``pass_ms(n)`` is the time of a pass over n tokens; one per block is always computed. It stops at the first token
    that does not pay, even if a larger budget would be better: that choice would depend on later tokens of the
    blocks. Everything is judged while times are unknown.
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
