"""Arrivals: the right number, in order, the same for the same seed; traces say which line is wrong."""

from __future__ import annotations

from itertools import pairwise

import pytest

from adasd.errors import ConfigError
from load_tests.load import arrivals


def test_constant_arrivals_are_evenly_spaced():
    assert list(arrivals.constant(4.0, 1.0)) == [0.0, 0.25, 0.5, 0.75]


def test_poisson_arrivals_have_the_rate_and_the_spread_of_independent_users():
    times = list(arrivals.poisson(50.0, 200.0, seed=1))
    gaps = [late - early for early, late in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    assert 1 / mean == pytest.approx(50.0, rel=0.05)  # fixed seed: this cannot fail by chance
    assert variance**0.5 / mean == pytest.approx(1.0, abs=0.05)
    assert times == list(arrivals.poisson(50.0, 200.0, seed=1)) != list(arrivals.poisson(50.0, 200.0, seed=2))


def test_bursts_come_on_top_of_a_stream():
    times = list(arrivals.bursts(1.0, size=5, every_s=10.0, seconds=31.0, seed=0))
    assert times == sorted(times)
    assert [times.count(at_s) for at_s in (10.0, 20.0, 30.0)] == [5, 5, 5]
    assert len(times) - 15 == len(list(arrivals.poisson(1.0, 31.0, 0)))


def test_no_burst_at_the_very_end():
    assert list(arrivals.bursts(1e-9, 3, 10.0, 20.0, 0)) == [10.0] * 3


def test_a_trace_starts_at_zero_and_can_be_played_faster(tmp_path):
    file = tmp_path / "trace.txt"
    file.write_text('7\n5.0\n{"at_s": 6, "user": "x"}\n\n')
    assert arrivals.trace(file) == [0.0, 1.0, 2.0]
    assert arrivals.trace(file, speed=2.0) == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("content", "said"),
    [("1\nsoon\n", "line 2"), ("{}\n", "line 1"), ("\n", "holds no arrival"), ("[1]\n", "line 1")],
)
def test_a_trace_that_cannot_be_read_is_named(tmp_path, content, said):
    file = tmp_path / "trace.txt"
    file.write_text(content)
    with pytest.raises(ConfigError, match=said):
        arrivals.trace(file)


def test_a_trace_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match="nowhere"):
        arrivals.trace(tmp_path / "nowhere")
