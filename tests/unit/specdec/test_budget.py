"""The split of the verification budget: by hand, against the best of all splits, and without bias."""

import itertools
import random
from itertools import accumulate
from math import prod
from operator import mul

import pytest

from adasd.specdec.verification_budget import share, share_by_cost


def test_the_likeliest_prefixes_are_taken_by_hand():
    # worth: .9 .81 .081 | .5 .45 | .95 .19
    blocks = [(0.9, 0.9, 0.1), (0.5, 0.9), (0.95, 0.2)]
    assert [share(n, blocks) for n in range(8)] == [
        [0, 0, 0],
        [0, 0, 1],
        [1, 0, 1],
        [2, 0, 1],
        [2, 1, 1],
        [2, 2, 1],
        [2, 2, 2],
        [3, 2, 2],
    ]
    assert share(99, blocks) == [3, 2, 2]
    assert share(3, []) == []


def random_blocks(seed: int) -> list[list[float]]:
    rng = random.Random(seed)
    return [[rng.choice([1.0, rng.random()]) for _ in range(rng.randrange(4))] for _ in range(3)]


@pytest.mark.parametrize("seed", range(60))
def test_no_other_choice_of_prefixes_expects_more_tokens(seed: int):
    blocks = random_blocks(seed)

    def expected(lens: tuple[int, ...]) -> float:
        return sum(sum(prod(b[: i + 1]) for i in range(n)) for b, n in zip(blocks, lens, strict=True))

    for budget in range(8):
        chosen = tuple(share(budget, blocks))
        assert sum(chosen) == min(budget, sum(map(len, blocks)))
        possible = itertools.product(*(range(len(block) + 1) for block in blocks))
        best = max(expected(lens) for lens in possible if sum(lens) <= budget)
        assert expected(chosen) == pytest.approx(best)


@pytest.mark.parametrize("by_cost", [False, True])
@pytest.mark.parametrize("seed", range(60))
def test_a_tokens_place_does_not_depend_on_itself_or_on_what_follows(seed: int, by_cost: bool):
    """Otherwise a token's own value could drop it, which is a bias. Tokens after position i are replaced."""
    rng = random.Random(seed)
    blocks = random_blocks(seed)

    def lens(which: list[list[float]]) -> list[int]:
        if by_cost:
            return share_by_cost(which, lambda n: 10.0 + max(0, n - 5) ** 2)
        return share(4, which)

    before = lens(blocks)
    for b, block in enumerate(blocks):
        for i in range(len(block)):
            other = [*block[: i + 1], *(rng.random() for _ in range(rng.randrange(4)))]
            after = lens([*blocks[:b], other, *blocks[b + 1 :]])
            assert (before[b] > i) == (after[b] > i)


def test_a_budget_is_chosen_where_tokens_cost_time():
    blocks = [[0.9, 0.9, 0.9], [0.6, 0.6, 0.6]]
    assert share_by_cost(blocks, lambda n: 10.0) == [3, 3]  # more tokens in the same time
    assert share_by_cost(blocks, lambda n: 10.0 * n) == [0, 0]  # plain tokens cost the same time
    assert share_by_cost(blocks, lambda n: None) == [3, 3]
    # 2 tokens in 10 ms; each more takes 2.5 ms, so it must yield a quarter of what 10 ms yield
    worth = sorted((w for block in blocks for w in accumulate(block, mul)), reverse=True)
    tokens, ms, taken = 2.0, 10.0, 0
    while taken < 6 and (tokens + worth[taken]) / (ms + 2.5) >= tokens / ms:
        tokens, ms, taken = tokens + worth[taken], ms + 2.5, taken + 1
    assert 0 < taken < 6
    assert sum(share_by_cost(blocks, lambda n: 10.0 + 2.5 * (n - 2))) == taken
