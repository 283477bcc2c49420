"""Virtual time: a day passes at once, in order, and standing still is an error."""

from __future__ import annotations

import asyncio
import time

import pytest

from cluster.simulation import virtual_time
from cluster.simulation.virtual_time import NothingLeft, now_s


def test_a_day_of_sleep_takes_no_time_and_wakes_in_order():
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        woken.append((name, now_s()))

    async def main() -> None:
        await asyncio.gather(sleeper("late", 86400.0), sleeper("early", 0.5), sleeper("noon", 43200.0))

    began_s = time.monotonic()
    virtual_time.run(main())
    assert woken == [("early", 0.5), ("noon", 43200.0), ("late", 86400.0)]
    assert time.monotonic() - began_s < 5.0


def test_timeouts_follow_virtual_time():
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30.0):
                await asyncio.sleep(3600.0)
        return now_s()

    assert virtual_time.run(main()) == 30.0


def test_standing_still_is_an_error_not_a_hang():
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(NothingLeft, match="every task waits"):
        virtual_time.run(main())
