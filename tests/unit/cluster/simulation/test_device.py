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


def process_ends(device: Device | None, seconds: list[float]) -> list[float]:
    """When one process on four cores ends each of its jobs, which all begin at once."""

    async def main() -> list[float]:
        process = Process(device)

        async def work(seconds: float) -> float:
            await process.run(seconds)
            return now_s()

        return await asyncio.gather(*map(work, seconds))

    return virtual_time.run(main())


def test_a_process_with_a_core_of_its_own_works_in_the_order_of_arrival():
    assert process_ends(None, [1.0, 2.0, 0.5]) == pytest.approx([1.0, 3.0, 3.5])


def test_a_process_on_a_shared_machine_serves_all_in_turn_on_one_core():
    """Until 1.5 s three jobs take turns, until 2.5 s two."""
    assert process_ends(Device(4), [1.0, 2.0, 0.5]) == pytest.approx([2.5, 3.5, 1.5], abs=0.01)
