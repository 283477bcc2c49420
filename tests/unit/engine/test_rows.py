"""Free rows: which one a session gets, and what it finds there."""

from itertools import takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adasd.engine.rows import MIN_COPY, FreeRows, Placement, common_prefix_len

LONG = list(range(10, 50))


def rows(*held, num_rows=3):
    """Free rows of which the first ones hold something; the first of them is the longest unused."""
    free = FreeRows(num_rows, reuse=True)
    for row, _ in enumerate(held):
        assert free.take((1,), []).row == row
    for row, tokens in enumerate(held):
        free.give_back(row, list(tokens))
    return free


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_common_beginnings(shared, some, others):
    some, others = shared + some, shared + others
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(some, others, strict=False))
    assert common_prefix_len(some, others) == len(list(pairs))


def test_a_text_that_goes_on_takes_its_row_over():
    assert rows([7] * 30, LONG).take((*LONG, 1, 2), []) == Placement(1, 40)


def test_a_row_of_which_most_would_be_lost_is_copied_to_an_empty_one():
    assert rows(LONG).take((*LONG[:10], 1, 2), []) == Placement(1, 10, copy_from=0)


def test_a_row_in_use_is_copied():
    assert rows([7] * 30, num_rows=3).take((*LONG, 1), [(2, LONG)]) == Placement(1, 40, copy_from=2)


def test_the_last_token_is_never_found():
    assert rows(LONG).take(LONG, []) == Placement(0, 39)
    assert rows([5]).take((5,), []) == Placement(1)


def test_too_few_tokens_are_computed_rather_than_copied():
    prompt = (*LONG[: MIN_COPY - 1], 1, 2)
    assert rows(LONG).take(prompt, []) == Placement(1)
    assert rows(LONG, num_rows=1).take(prompt, []) == Placement(0, MIN_COPY - 1), "in place they cost nothing"


def test_without_an_empty_row_the_longest_unused_one_goes():
    free = rows([1] * 20, [2] * 20, [3] * 20)
    assert free.take([2] * 9, []) == Placement(0, 8, copy_from=1), "its source counts as used now"
    assert [free.take([9], []).row for _ in range(2)] == [2, 1]


def test_without_reuse_nothing_is_found():
    free = FreeRows(2, reuse=False)
    assert free.take(LONG, []) == Placement(0)
    free.give_back(0, LONG)
    assert free.take(LONG, [(1, LONG)]) == Placement(0)


def test_what_is_forgotten_is_not_found():
    free = rows(LONG, LONG)
    free.forget()
    assert free.take(LONG, []) == Placement(0)
    assert list(free.held()) == []


@pytest.mark.parametrize("reuse", [False, True])
def test_a_row_given_back_empty_is_the_next_to_be_taken(reuse):
    free = FreeRows(3, reuse)
    free.take((1,), [])
    free.give_back(0, [])
    assert free.take((1,), []) == Placement(0)
