"""Curves go through their points, never fall, and refuse points that contradict each other in one sentence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adasd.errors import ConfigError
from cluster.simulation.curves import curve_of

POINTS = {1: [[1, 10], [8, 12], [64, 40]], 4: [[4, 14], [64, 50]], 16: [[16, 20], [64, 60]]}


def test_a_curve_goes_through_its_points_and_between_them():
    curve = curve_of(POINTS, "t")
    for num_sessions, line in POINTS.items():
        for tokens, ms in line:
            assert curve.ms(num_sessions, tokens) == ms
    assert curve.ms(1, 36) == pytest.approx(26)
    assert curve.ms(10, 64) == pytest.approx(55)
    assert curve.ms(1, 120) == pytest.approx(40 + 56 * 28 / 56)  # the last slope goes on
    assert curve.ms(500, 64) == 60


@given(st.integers(1, 64), st.integers(1, 64), st.integers(0, 400), st.integers(0, 400))
def test_more_tokens_are_never_faster(sessions: int, each: int, more: int, even_more: int):
    curve = curve_of(POINTS, "t")
    few = sessions * each + more
    assert curve.ms(sessions, few) <= curve.ms(sessions, few + even_more) + 1e-9


@pytest.mark.parametrize(
    ("points", "sentence"),
    [
        ({}, "there is no point"),
        ({1: []}, "has no point"),
        ({1: [[1, 10], [8, 9]]}, "10 ms over 1 tokens and 9 ms over 8"),
        ({1: [[1, 10], [1, 11]]}, "both 10 and 11 ms"),
        ({4: [[2, 10]]}, "over 2 tokens in 10 ms is impossible"),
        ({1: [[1, 0]]}, "in 0 ms is impossible"),
        ({1: [[1, 10]], 8: [[8, 9]]}, "8 sessions takes 9 ms and that of 1 takes 10 ms"),
    ],
)
def test_contradictions_are_named(points, sentence: str):
    with pytest.raises(ConfigError, match=r"^cards\.h100: ") as caught:
        curve_of(points, "cards.h100")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
