"""The search for the highest rate finds any knee within a few trials."""

from __future__ import annotations

import pytest

from load_tests.load.knee import CLOSE_ENOUGH, MOST_PER_S, find_knee


@pytest.mark.parametrize("knee", [0.6, 4.0, 7.3, 33.0, 300.0])
async def test_it_brackets_the_knee(knee):
    tried = []

    async def holds(rate):
        tried.append(rate)
        return rate <= knee

    found = await find_knee(holds, 4.0)
    assert found.rate_per_s <= knee < found.missed_per_s
    assert found.missed_per_s / found.rate_per_s <= CLOSE_ENOUGH
    assert len(tried) <= 12
    assert f"{found.rate_per_s:.3g} requests per second hold" in str(found)


async def test_a_server_that_holds_nothing():
    async def never(_):
        return False

    found = await find_knee(never, 4.0)
    assert (found.rate_per_s, found.missed_per_s) == (None, 0.5)
    assert str(found) == "knee: below 0.5 requests per second"


@pytest.mark.parametrize(("holds_it", "said"), [(True, "above 600"), (False, "below 75")])
async def test_a_first_rate_beyond_the_highest_is_tried(holds_it, said):
    async def always_the_same(_):
        return holds_it

    assert said in str(await find_knee(always_the_same, 600.0))


async def test_a_server_that_holds_everything():
    async def always(_):
        return True

    found = await find_knee(always, 4.0)
    assert found.missed_per_s is None
    assert found.rate_per_s <= MOST_PER_S
    assert "above" in str(found)
