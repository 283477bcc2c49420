"""Intervals keep their coverage, by enumeration; shares and tests agree with scipy."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, multinomial

from adasd.evaluate.intervals import (
    at_most,
    holm,
    not_worse,
    paired_difference,
    resampled_ratios,
    share,
    speed_ratio,
)


@pytest.mark.parametrize(("right", "num"), [(0, 10), (3, 10), (10, 10), (37, 40), (159, 160)])
def test_the_interval_of_a_share_is_scipys(right, num):
    exact = binomtest(right, num).proportion_ci(method="exact")
    assert share(right, num) == pytest.approx((right / num, exact.low, exact.high), abs=1e-9)


def pairs(gained, lost, num):
    ours = [True] * gained + [False] * lost + [True] * (num - gained - lost)
    theirs = [False] * gained + [True] * lost + [True] * (num - gained - lost)
    return ours, theirs


def test_forty_answers_without_a_difference_exclude_eight_point_eight_points():
    found = paired_difference(*pairs(0, 0, 40))
    assert found == pytest.approx((0, -0.0881, 0.0881), abs=1e-4)
    assert share(0, 40).high == pytest.approx(found.high, abs=1e-4)
    assert paired_difference([], []) == (0, -1, 1)


@pytest.mark.parametrize("num", [8, 25])
def test_no_true_difference_is_missed_more_often_than_promised(num):
    """Coverage, by the sum over all tables, for shares of gained and lost answers over their whole range."""
    tables = [(b, c) for b, c in product(range(num + 1), repeat=2) if b + c <= num]
    found = {table: paired_difference(*pairs(*table, num)) for table in tables}
    low, high = np.array([(found[table].low, found[table].high) for table in tables]).T
    counts = np.array([(b, c, num - b - c) for b, c in tables])
    for gained, lost in product((0, 0.01, 0.03, 0.1, 0.25, 0.5, 0.75), repeat=2):
        if gained + lost <= 1:
            chance = multinomial(num, (gained, lost, 1 - gained - lost)).pmf(counts)
            truth = gained - lost
            assert chance[(low > truth + 1e-6)].sum() <= 0.0255
            assert chance[(high < truth - 1e-6)].sum() <= 0.0255


@pytest.mark.parametrize(("gained", "lost"), [(0, 5), (0, 6), (1, 7), (1, 8), (2, 9), (4, 12), (3, 3)])
def test_zero_is_excluded_exactly_where_mcnemars_exact_test_rejects_it(gained, lost):
    found = paired_difference(*pairs(gained, lost, 60))
    p_value = binomtest(gained, gained + lost, alternative="less").pvalue
    assert (found.high < 0) == (p_value < 0.025)
    assert not_worse(*pairs(lost, gained, 60), 0.0) == pytest.approx(p_value, abs=2e-3)


@given(st.integers(0, 9), st.integers(0, 9), st.integers(18, 60))
@settings(max_examples=30, deadline=None)
def test_the_interval_is_antisymmetric_holds_its_estimate_and_agrees_with_its_test(gained, lost, num):
    found = paired_difference(*pairs(gained, lost, num))
    mirrored = paired_difference(*pairs(lost, gained, num))
    assert found == pytest.approx((-mirrored.value, -mirrored.high, -mirrored.low))
    assert found.low <= found.value <= found.high
    margin = 0.05
    p_value = not_worse(*pairs(gained, lost, num), margin)
    assert abs(p_value - 0.025) < 1e-4 or (p_value < 0.025) == (found.low > -margin)


def test_the_ratio_of_a_speed_to_itself_is_one_and_the_interval_a_point():
    answers = [(10.0, 2.0), (30.0, 9.0), (5.0, 1.0)]
    assert speed_ratio(answers, answers) == pytest.approx((1, 1, 1))
    assert at_most(resampled_ratios(answers, answers), 0.97) < 0.001
    assert at_most(resampled_ratios(answers, answers), 1.0 + 1e-9) == 1


def test_the_bootstrap_covers_a_known_ratio():
    """Of 200 experiments with a true ratio of 1.5 about 190 are covered; below 176 has a chance under 0.001."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        tokens, slow = rng.integers(10, 60, 60), rng.gamma(20, 0.05, 60)
        fast = slow / 1.5 * rng.gamma(40, 1 / 40, 60)
        found = speed_ratio(
            list(zip(tokens, tokens * fast, strict=True)), list(zip(tokens, tokens * slow, strict=True))
        )
        covered += found.low <= 1.5 <= found.high
    assert covered >= 176


def test_holms_steps_are_those_of_the_textbook():
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert adjusted == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}
