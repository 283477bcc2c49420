"""Ratios: a real difference is found, none is invented, and blocks widen the interval if answers are correlated."""

from __future__ import annotations

import random

import numpy as np
import pytest

from adasd.errors import ConfigError
from load_tests.load.compare import STATISTICS, _columns, _interval, compare, table
from load_tests.load.result_file import FORMAT, read


def result(factor=1.0, seed=0, seconds=40, rate=10, per_block=0.0):
    """Log-normal times; ``per_block`` shifts all answers within two seconds together."""
    rng = random.Random(seed)
    shifts = [rng.gauss(0, per_block) for _ in range(seconds)]
    count = seconds * rate
    at = [n / rate for n in range(count)]
    firsts = [factor * 0.1 * np.exp(0.3 * rng.gauss(0, 1) + shifts[int(t) // 2]) for t in at]
    return {
        "format": FORMAT,
        "scenario": "steady",
        "objective": {"first_token_ms": 500.0, "per_token_ms": 50.0, "share": 0.95},
        "figures": {"answers_per_s": rate * factor, "tokens_per_s": 20.0 * rate},
        "timeline": {"done": [rate * factor] * seconds, "tokens": [20.0 * rate] * seconds},
        "answers": {
            "intended_s": at,
            "first_token_s": firsts,
            "per_token_s": [None] * count,
            "total_s": [first + 0.2 for first in firsts],
            "outcome": ["done"] * count,
        },
    }


def test_a_difference_of_twenty_percent_is_found_with_its_size():
    ratios = {ratio.name: ratio for ratio in compare(result(), result(1.2, seed=1))}
    median = ratios["first token, median"]
    assert median.differs
    assert median.interval[0] < 1.2 < median.interval[1]
    assert ratios["answers per second"].ratio == pytest.approx(1.2)


def test_no_difference_is_claimed_between_equal_runs():
    ratios = compare(result(), result(seed=1))
    assert [ratio.name for ratio in ratios if ratio.differs] == []


def test_answers_that_hang_together_count_as_less_evidence():
    rng = np.random.default_rng(0)
    column, statistic = STATISTICS["first token, median"]

    def width(per_block):
        sides = [_columns(result(seed=seed, per_block=per_block)) for seed in (3, 4)]
        low, high = _interval(sides, column, statistic, rng)
        return high - low

    assert width(0.4) > 2.0 * width(0.0)


def test_what_was_not_measured_is_left_out():
    assert "time per token, median" not in {ratio.name for ratio in compare(result(), result())}


def test_too_little_data_gives_no_interval():
    first = compare(result(seconds=4), result(seconds=4, seed=1))[0]
    assert first.interval is None
    assert not first.differs


@pytest.mark.parametrize("what", ["scenario", "objective"])
def test_different_things_are_not_compared(what):
    with pytest.raises(ConfigError, match=what):
        compare(result(), {**result(), what: "other"})


def test_the_table_marks_what_differs(tmp_path):
    shown = table(compare(result(), result(1.5)), (tmp_path / "a.json", tmp_path / "b.json"))
    marks = list(shown.columns[-1].cells)
    assert "*" in marks


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format": 99, "answers": {}}'])
def test_what_is_no_result_is_refused(tmp_path, content):
    file = tmp_path / "a.json"
    file.write_text(content)
    with pytest.raises(ConfigError, match=r"a\.json"):
        read(file)
