"""A shared device against a slow twin that moves in small steps, and a process of one thread."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.simulation import virtual_time
from cluster.simulation.device import Device, Process
from cluster.simulation.virtual_time import now_s

Jobs = list[tuple[float, float]]
"""(start, seconds of one core)."""


def ends(jobs: Jobs, cores: float, background: float) -> list[float]:
    """When the device says that each job ends."""

    async def job(device: Device, start_s: float, seconds: float) -> float:
        await asyncio.sleep(start_s)
        await device.run(seconds)
        return now_s()

    async def main() -> list[float]:
        device = Device(cores, background)
        return await asyncio.gather(*(job(device, *each) for each in jobs))

    return virtual_time.run(main())


def slow_ends(jobs: Jobs, cores: float, background: float, step_s: float = 1e-3) -> list[float]:
    left, found, now = [seconds for _, seconds in jobs], [0.0] * len(jobs), 0.0
    while any(seconds > 0 for seconds in left):
        alive = [i for i, (start, _) in enumerate(jobs) if start <= now and left[i] > 0]
        now += step_s
        for i in alive:
            left[i] -= step_s * min(1.0, cores / (len(alive) + background))
            if left[i] <= 0:
                found[i] = now
    return found


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0.05, 0.5)), min_size=1, max_size=5),
    st.sampled_from([1.0, 2.0]),
    st.sampled_from([0.0, 1.0]),
)
def test_jobs_share_the_cores_equally(jobs: Jobs, cores: float, background: float):
    assert ends(jobs, cores, background) == pytest.approx(slow_ends(jobs, cores, background), abs=0.02)


@pytest.mark.parametrize("device", [None, Device(4)])
def test_a_process_does_one_thing_at_a_time_in_order(device: Device | None):
    async def main() -> list[float]:
        process, found = Process(device), list[float]()

        async def work(seconds: float) -> None:
            await process.run(seconds)
            found.append(now_s())

        await asyncio.gather(work(1.0), work(2.0), work(0.5))
        return found

    assert virtual_time.run(main()) == pytest.approx([1.0, 3.0, 3.5])
