"""Free slots: which one a session gets, and which tokens it finds there."""

from itertools import takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adasd.engine.cache.free_slots import common_prefix_len
from adasd.engine.cache.layout import SlotPlacement
from adasd.engine.cache.prefix_cache import MIN_COPY, PrefixCache

LONG = list(range(10, 50))


def held_by(*held, num_slots=3):
    """Free slots; the first ones hold tokens, least recently used first."""
    free = PrefixCache(num_slots, 64, reuse=True)
    for slot, _ in enumerate(held):
        assert free.allocate((1,), []).slot == slot
    for slot, tokens in enumerate(held):
        free.free(slot, list(tokens))
    return free


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_common_beginnings(shared, some, others):
    some, others = shared + some, shared + others
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(some, others, strict=False))
    assert common_prefix_len(some, others) == len(list(pairs))


def test_a_text_that_goes_on_takes_its_row_over():
    assert held_by([7] * 30, LONG).allocate((*LONG, 1, 2), []) == SlotPlacement(1, 40)


def test_a_row_of_which_most_would_be_lost_is_copied_to_an_empty_one():
    assert held_by(LONG).allocate((*LONG[:10], 1, 2), []) == SlotPlacement(1, 10, copy_from=0)


def test_a_row_in_use_is_copied():
    assert held_by([7] * 30, num_slots=3).allocate((*LONG, 1), [(2, LONG)]) == SlotPlacement(
        1, 40, copy_from=2
    )


def test_the_last_token_is_never_found():
    assert held_by(LONG).allocate(LONG, []) == SlotPlacement(0, 39)
    assert held_by([5]).allocate((5,), []) == SlotPlacement(1)


def test_too_few_tokens_are_computed_rather_than_copied():
    prompt = (*LONG[: MIN_COPY - 1], 1, 2)
    assert held_by(LONG).allocate(prompt, []) == SlotPlacement(1)
    assert held_by(LONG, num_slots=1).allocate(prompt, []) == SlotPlacement(0, MIN_COPY - 1), (
        "in place they cost nothing"
    )


def test_without_an_empty_row_the_longest_unused_one_goes():
    free = held_by([1] * 20, [2] * 20, [3] * 20)
    assert free.allocate([2] * 9, []) == SlotPlacement(0, 8, copy_from=1), "its source counts as used now"
    assert [free.allocate([9], []).slot for _ in range(2)] == [2, 1]


def test_without_reuse_nothing_is_found():
    free = PrefixCache(2, 64)
    assert free.allocate(LONG, []) == SlotPlacement(0)
    free.free(0, LONG)
    assert free.allocate(LONG, [(1, LONG)]) == SlotPlacement(0)


@pytest.mark.parametrize("reuse", [False, True])
def test_a_row_given_back_empty_is_the_next_to_be_taken(reuse):
    free = PrefixCache(3, 64, reuse)
    free.allocate((1,), [])
    free.free(0, [])
    assert free.allocate((1,), []) == SlotPlacement(0)
