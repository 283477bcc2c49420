"""A look-up answers draft calls as a worker does, also after roll-backs and calls on a wrong assumption."""

from __future__ import annotations

import random

import numpy as np
import pytest

from adasd.drafters.lookup import Lookup
from adasd.drafters.lookups import Lookups
from adasd.drafters.suffix import SuffixAutomaton
from adasd.errors import StaleCache
from adasd.rounds import DraftCall, StopRule


def call(keep_len: int, feed: list[int], **rule: float) -> DraftCall:
    return DraftCall("s", 1, keep_len, tuple(feed), StopRule(**({"max_tokens": 8} | rule)))  # type: ignore[arg-type]


def test_a_block_continues_the_text_and_its_rows_are_point_masses():
    line = Lookup(SuffixAutomaton)
    drafted = line.draft(call(0, [1, 2, 3, 4, 9, 1, 2, 3], row_len=128))
    assert (drafted.base_len, drafted.tokens) == (8, (4, 9, 1))
    assert len(drafted.entropies) == 3
    assert drafted.distributions is not None
    assert drafted.distributions.ids.tolist() == [[4], [9], [1]]
    assert np.exp(drafted.distributions.logprobs).tolist() == [[1.0]] * 3


def test_without_rows_wanted_there_are_none_and_nothing_found_is_an_empty_block():
    line = Lookup(SuffixAutomaton)
    assert line.draft(call(0, [1, 2, 3, 1, 2])).distributions is None
    assert Lookup(SuffixAutomaton).draft(call(0, [1, 2, 3], row_len=8)).tokens == ()


def test_the_rule_ends_the_block():
    text = [1, 2, 3, 4, 5, 6, 9, 1, 2, 3, 4]
    assert len(Lookup(SuffixAutomaton).draft(call(0, text, max_tokens=2)).tokens) == 2
    assert len(Lookup(SuffixAutomaton).draft(call(0, text, max_tokens=0)).tokens) == 0
    assert len(Lookup(SuffixAutomaton).draft(call(0, text, entropy_ceiling=0.1)).tokens) == 1
    assert len(Lookup(SuffixAutomaton).draft(call(0, text, confidence_floor=0.9)).tokens) == 1


def test_more_than_is_held_cannot_be_kept():
    line = Lookup(SuffixAutomaton)
    line.draft(call(0, [1, 2, 3]))
    with pytest.raises(StaleCache):
        line.draft(call(4, [5]))


@pytest.mark.parametrize("name", ["ngram", "suffix"])
@pytest.mark.parametrize("seed", range(10))
def test_however_a_text_was_read_the_block_is_that_of_reading_it_at_once(name, seed):
    """Roll-backs, blocks accepted in part, and optimistic calls on a wrong assumption."""
    rng = random.Random(seed)
    line, text = Lookups().lookup(name), [rng.randrange(3)]
    cached = 0
    for _ in range(60):
        if rng.random() < 0.2:  # drafted ahead; the verdict rejects it
            line.draft(call(cached, [*text[cached:], *(rng.randrange(3) for _ in range(3))]))
        drafted = line.draft(call(cached, text[cached:]))
        assert drafted.tokens == Lookups().lookup(name).draft(call(0, text)).tokens
        num_accepted = rng.randint(0, len(drafted.tokens))
        cached = len(text) + max(0, min(num_accepted, len(drafted.tokens) - 1))
        text += [*drafted.tokens[:num_accepted], rng.randrange(3)]


def test_answers_are_remembered_only_where_that_is_switched_on_and_never_by_who_must_stay_alone():
    asked = call(0, [1, 2, 3])
    for recent_tokens, alone, expected in ((0, False, ()), (100, True, ()), (100, False, (4, 5, 6))):
        lookups = Lookups(recent_tokens)
        lookups.remember([1, 2, 3, 4, 5, 6, 7])
        assert lookups.lookup("suffix", alone=alone).draft(asked).tokens == expected
