"""Means, times and survival against numbers worked by hand."""

from dataclasses import replace

import numpy as np
import pytest

from adasd.control.estimators import Ema, EmaOfTimes, Estimates, Line, Survival
from tests.unit.methods.rounds import a_round


def test_survival_of_one_round_by_hand():
    """2 of 4 accepted: positions 1, 2 passed, 3 failed, 4 unjudged.

    Pooled: (.7 * 2 + 2) / (2 + 3) = .68. Position 1 and 2: (1 + 4 * .68) / 5 = .744; 3: 2.72 / 5 = .544.
    """
    curve = Survival().add(2, 4).curve(4)
    assert curve == pytest.approx((0.744, 0.744**2, 0.744**2 * 0.544, 0.744**2 * 0.544 * 0.68))


def test_survival_before_any_round_assumes_seven_in_ten():
    assert Survival().curve(3) == pytest.approx((0.7, 0.49, 0.343))
    assert Survival().curve(0) == ()


def test_survival_is_not_misled_by_unjudged_tokens():
    """True chance .8 per token in blocks of 5: accepted / drafted would give .54."""
    rng = np.random.default_rng(1)
    survival, first, third, naive = Survival(), [], [], []
    for i in range(4000):
        fails = np.flatnonzero(rng.random(5) >= 0.8)
        num_accepted = int(fails[0]) if len(fails) else 5
        survival = survival.add(num_accepted, 5)
        naive.append(num_accepted / 5)
        if i >= 200:
            first.append(survival.curve(3)[0])
            third.append(survival.curve(3)[2])
    assert np.mean(naive) == pytest.approx(0.54, abs=0.02)
    assert np.mean(first) == pytest.approx(0.8, abs=0.02)
    assert np.mean(third) == pytest.approx(0.512, abs=0.03)


def test_survival_of_short_blocks_says_little_about_long_ones():
    survival = Survival()
    for _ in range(100):
        survival = survival.add(1, 1)
    curve = survival.curve(3)
    assert curve[0] > 0.98
    assert curve[2] > 0.9  # unseen positions lean on the pooled mean
    assert list(curve) == sorted(curve, reverse=True)


def test_ema_starts_at_its_first_value():
    assert Ema().value is None
    assert Ema().add(10.0).add(20.0).value == pytest.approx(11.0)


def test_line_finds_base_and_slope():
    line = Line()
    for tokens in (0, 5, 2, 8, 0, 5):
        line = line.add(tokens, 12.0 + 1.5 * tokens)
    assert line.fit() == pytest.approx((12.0, 1.5))


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(5, 20.0), (5, 20.0)], (20.0, 0.0)),  # the number of tokens never varied, so no slope
        ([(0, 20.0), (10, 10.0)], (14.949, 0.0)),  # a falling line is noise: (.98 * 20 + 10) / 1.98
        ([(1, 1.0), (2, 6.0)], (0.0, 2.606)),  # through the origin: (.98 + 12) / (.98 + 4)
    ],
)
def test_line_stays_physical(points, expected):
    line = Line()
    for tokens, ms in points:
        line = line.add(tokens, ms)
    base, slope = line.fit()
    assert (base, slope) == pytest.approx(expected, abs=1e-3)


def test_estimates_split_a_round_into_compute_and_hop():
    estimates = Estimates().learn(a_round(2, 4, draft_ms=10.0, draft_compute_ms=8.0, verify_ms=30.0))
    assert estimates.draft_ms.value == 2.0
    assert estimates.hop_ms.value == 2.0
    assert estimates.verify_ms.fit() == (30.0, 0.0)
    plain = estimates.learn(a_round(0, 0, verify_ms=26.0))
    assert plain.survival == estimates.survival
    base, per_token = plain.verify_ms.fit()
    assert (base, per_token) == pytest.approx((26.0, 1.0))


def test_plain_decoding_is_timed_where_it_hides_its_hop():
    """A plain round after a block waits for its hop; those behind it do not, and neither do rounds in one process."""
    block = Estimates().learn(a_round(2, 4, draft_ms=10.0, draft_compute_ms=8.0, verify_ms=30.0))
    assert block.plain_ms() == 0.0  # the verdict's own time in ``a_round``
    waits = replace(a_round(0, 0, verify_ms=26.0), asked_early=False)
    ahead = replace(a_round(0, 0, verify_ms=7.0), asked_early=True, overhead_ms=1.0)
    alone = replace(ahead, asked_early=None)
    assert block.learn(waits).plain_ms() == block.plain_ms()
    assert block.learn(waits).learn(ahead).plain_ms() == 8.0
    assert block.learn(ahead).verify_ms == block.verify_ms  # of rounds that wait
    assert block.learn(alone).plain_ms() == 8.0
    assert block.learn(alone).verify_ms != block.verify_ms


def test_a_mean_of_times_shrugs_at_one_outlier_and_follows_a_lasting_change():
    times = EmaOfTimes()
    for _ in range(20):
        times = times.add(0.1)
    assert times.add(50.0).value == pytest.approx(0.13)
    for _ in range(40):
        times = times.add(5.0)
    assert times.value > 4.0
    for _ in range(60):
        times = times.add(0.0)
    assert times.value < 0.02
    for _ in range(60):
        times = times.add(1.0)
    assert times.value > 0.9
