"""One thread or all: the faster way is found, found again when it changes, and trials stay cheap."""

import random

import pytest

from adasd.engine.forward.native.team_size import (
    ALONE_BELOW,
    FIRST_TRIAL,
    TRIAL_SHARE,
    TeamSize,
    usual_num_threads,
)


def passes(size, num_tokens, together_s, alone_s, num, noise=0.0, seed=0):
    """Whether each of ``num`` passes was computed alone; it then took ``alone_s``, else ``together_s``."""
    rng, ways = random.Random(seed), []
    for _ in range(num):
        alone = size.is_alone(num_tokens)
        size.learn(num_tokens, alone, (alone_s if alone else together_s) * (1 + noise * rng.random()))
        ways.append(alone)
    return ways


def share(ways, alone):
    return ways.count(alone) / len(ways)


@pytest.mark.parametrize("slower", [1.2, 1.5, 4.0])
@pytest.mark.parametrize("best", [True, False])
def test_the_faster_way_is_preferred_and_trials_cost_a_share_of_the_time(best, slower):
    together_s, alone_s = (slower, 1.0) if best else (1.0, slower)
    ways = passes(TeamSize(2), 4, together_s, alone_s, 2000)
    tried = ways[FIRST_TRIAL:].count(not best)
    assert 0 < tried * (slower - 1) <= 1.1 * TRIAL_SHARE * len(ways)


def test_noise_does_not_hide_which_is_faster():
    assert share(passes(TeamSize(2), 16, 1.0, 1.3, 500, noise=0.5), False) > 0.85


def test_a_change_is_noticed():
    """A program that takes the second core, and leaves again."""
    size = TeamSize(2)
    assert share(passes(size, 1, 1.0, 1.2, 300), False) > 0.85
    assert share(passes(size, 1, 2.0, 1.2, 300)[150:], True) > 0.9
    assert share(passes(size, 1, 1.0, 1.2, 600)[300:], False) > 0.9


def test_each_length_has_its_own_choice():
    size = TeamSize(2)
    assert share(passes(size, 1, 2.0, 1.0, 200), True) > 0.9
    assert share(passes(size, 200, 1.0, 2.0, 200), False) > 0.9
    assert share(passes(size, 1, 2.0, 1.0, 200), True) > 0.9


def test_one_thread_is_alone():
    assert passes(TeamSize(1), 300, 1.0, 9.0, 20) == [True] * 20


def test_short_passes_wake_nobody():
    size = TeamSize(2, products_per_token=ALONE_BELOW // 10)
    assert passes(size, 9, 1.0, 9.0, 20) == [True] * 20
    assert share(passes(size, 10, 1.0, 9.0, 200), False) > 0.9


def test_the_usual_number_is_within_reason():
    assert 1 <= usual_num_threads() <= 8


def test_what_is_hardly_faster_changes_nothing():
    assert share(passes(TeamSize(2), 1, 1.0, 1.05, 500), True) > 0.75
    assert share(passes(TeamSize(2), 16, 1.05, 1.0, 500), False) > 0.75
