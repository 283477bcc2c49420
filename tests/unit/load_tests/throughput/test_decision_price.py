"""The price of a decision: sums and the exit status, on a made-up clock."""

from itertools import count

import pytest

from load_tests.throughput.decision_price import main, measure


def ticking(step_s: float):
    ticks = count()
    return lambda: next(ticks) * step_s


def test_every_part_is_counted_once_per_round():
    price = measure(20, 4, ticking(8e-6))
    assert (price.decide_us, price.learn_us, price.stop_us) == pytest.approx((8, 8, 2))
    assert price.per_decision_us == pytest.approx(6)


def test_the_exit_status_tells_whether_the_goal_is_reached(tmp_path):
    arguments = ["--rounds", "5", "--block", "4", "--json", str(tmp_path / "price.json")]
    assert main(arguments, ticking(8e-6)) == 0
    assert main(arguments, ticking(20e-6)) == 1
    assert "per_decision_us" in (tmp_path / "price.json").read_text()
