"""Prices of the verification budget: by hand, against the best choice of prefixes, and without bias."""

import itertools
import random
from itertools import accumulate
from math import prod
from operator import mul

import pytest

from adasd.specdec.verification_budget import (
    SessionPrices,
    judged_len,
    learned,
    ranked,
    refused_by_budget,
    refused_by_cost,
)


def random_blocks(seed: int) -> list[list[float]]:
    rng = random.Random(seed)
    return [[rng.choice([1.0, rng.random()]) for _ in range(rng.randrange(4))] for _ in range(3)]


def test_the_refused_token_by_hand():
    # worth: .9 .81 .081 | .5 .45 | .95 .19
    blocks = [(0.9, 0.9, 0.1), (0.5, 0.9), (0.95, 0.2)]
    worths = [0.95, 0.9, 0.81, 0.5, 0.45, 0.19, 0.081]
    assert ranked(blocks) == pytest.approx(worths)
    assert [refused_by_budget(n, blocks) for n in range(9)] == pytest.approx([*worths, 0.0, 0.0])
    assert [judged_len(blocks[0], price) for price in (0.0, 0.09, 0.5, 0.85, 0.9, 1.0)] == [3, 2, 2, 1, 0, 0]
    assert judged_len((), 0.0) == 0


@pytest.mark.parametrize("seed", range(60))
def test_at_the_price_of_a_pass_no_other_prefixes_expect_more_tokens(seed: int):
    blocks = random_blocks(seed)

    def expected(lens: tuple[int, ...]) -> float:
        return sum(sum(prod(b[: i + 1]) for i in range(n)) for b, n in zip(blocks, lens, strict=True))

    for budget in range(8):
        price = refused_by_budget(budget, blocks)
        chosen = tuple(judged_len(block, price) for block in blocks)
        assert sum(chosen) <= budget
        possible = itertools.product(*(range(len(block) + 1) for block in blocks))
        best = max(expected(lens) for lens in possible if sum(lens) <= sum(chosen))
        assert expected(chosen) == pytest.approx(best)


@pytest.mark.parametrize("seed", range(60))
def test_whether_a_token_is_judged_does_not_depend_on_itself_or_on_what_follows(seed: int):
    """Its confidence is known before it is drawn; tokens after position i are replaced."""
    rng = random.Random(seed)
    price = rng.random()
    for block in random_blocks(seed):
        for i in range(len(block)):
            other = [*block[: i + 1], *(rng.random() for _ in range(rng.randrange(4)))]
            assert (judged_len(block, price) > i) == (judged_len(other, price) > i)


def test_a_price_is_found_where_tokens_cost_time():
    blocks = [[0.9, 0.9, 0.9], [0.6, 0.6, 0.6]]
    assert refused_by_cost(blocks, lambda n: 10.0) == 0.0  # more tokens in the same time
    assert refused_by_cost(blocks, lambda n: 10.0 * n) == 0.9  # plain tokens cost the same time
    assert refused_by_cost(blocks, lambda n: None) == 0.0
    # 2 tokens in 10 ms; each more takes 2.5 ms, so it must yield a quarter of what 10 ms yield
    worths = sorted((w for block in blocks for w in accumulate(block, mul)), reverse=True)
    tokens, ms, taken = 2.0, 10.0, 0
    while taken < 6 and (tokens + worths[taken]) / (ms + 2.5) >= tokens / ms:
        tokens, ms, taken = tokens + worths[taken], ms + 2.5, taken + 1
    assert 0 < taken < 6
    assert refused_by_cost(blocks, lambda n: 10.0 + 2.5 * (n - 2)) == worths[taken]


def test_equal_passes_come_to_their_budget():
    blocks = [[0.9, 0.8, 0.7], [0.6, 0.6, 0.6]]
    price = 0.0
    for _ in range(60):
        price = learned(price, refused_by_budget(3, blocks))
    assert sum(judged_len(block, price + 1e-5) for block in blocks) == 3


def test_a_price_is_fixed_before_the_verdict_that_comes_first():
    prices = SessionPrices(0.1, 0.1)
    for learned_then, used_next in ((0.2, 0.1), (0.3, 0.2), (0.4, 0.3)):
        prices = prices.after_verdict(learned_then)
        assert prices.current == used_next
