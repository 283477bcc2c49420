"""Leases: who holds one and for how long, and that an old lease cannot end a newer one."""

from __future__ import annotations

import asyncio

import pytest

from adasd.errors import Overloaded
from services.worker.leases import LeaseTable


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def leases(clock):
    return LeaseTable(capacity=2, idle_ttl_s=10.0, clock=clock)


def test_a_lease_lasts_its_idle_time(leases, clock):
    lease = leases.grant("a")
    assert leases.idle_left_s(lease) == 10.0
    clock.now_s += 9.5
    assert leases.idle_left_s(lease) == 0.5
    clock.now_s += 1.0
    assert leases.idle_left_s(lease) == 0.0


def test_traffic_keeps_a_lease(leases, clock):
    lease = leases.grant("a")
    clock.now_s += 9.0
    assert leases.heard("a")
    clock.now_s += 9.0
    assert leases.idle_left_s(lease) == 1.0


def test_without_a_lease_nobody_is_heard(leases):
    assert not leases.heard("a")
    assert "a" not in leases


def test_a_released_lease_is_over(leases):
    lease = leases.grant("a")
    assert leases.release(lease)
    assert not leases.release(lease)
    assert leases.idle_left_s(lease) == 0.0
    assert not leases.heard("a")
    assert len(leases) == 0


def test_no_more_leases_than_slots(leases):
    leases.grant("a")
    leases.grant("b")
    with pytest.raises(Overloaded, match="all 2 slots"):
        leases.grant("c")
    assert len(leases) == 2


def test_a_newer_lease_of_the_session_makes_the_older_void(leases):
    old, _ = leases.grant("a"), leases.grant("b")
    new = leases.grant("a")  # also while all slots are leased
    assert leases.idle_left_s(old) == 0.0
    assert not leases.release(old)
    assert leases.heard("a")
    assert leases.release(new)


async def waiting(leases, *sessions, timeout_s=5.0):
    """Starts tasks that wait for a lease, in this order."""
    tasks = []
    for session in sessions:
        tasks.append(asyncio.create_task(leases.grant_when_free(session, timeout_s)))
        await asyncio.sleep(0)
    return tasks


async def test_who_waits_is_served_in_the_order_of_asking(leases):
    held = [leases.grant("a"), leases.grant("b")]
    tasks = await waiting(leases, "c", "d", "e")
    await asyncio.sleep(0.01)
    assert not any(task.done() for task in tasks)
    leases.release(held[1])
    c = await tasks[0]
    assert not tasks[1].done()
    leases.release(held[0])
    leases.release(c)
    assert (await tasks[1]).session == "d"
    assert (await tasks[2]).session == "e"
    assert len(leases) == 2


async def test_nobody_new_overtakes_who_was_served_while_it_sleeps(leases):
    held = [leases.grant("a"), leases.grant("b")]
    (task,) = await waiting(leases, "c")
    leases.release(held[0])  # c has its lease, but its task has not run yet
    with pytest.raises(Overloaded):
        leases.grant("d")
    assert (await task).session == "c"


async def test_the_wait_is_bounded_and_leaves_nothing(leases):
    held = [leases.grant("a"), leases.grant("b")]
    with pytest.raises(Overloaded, match=r"all 2 slots .* none became free within 0\.01 s"):
        await leases.grant_when_free("c", 0.01)
    leases.release(held[0])
    assert "c" not in leases
    assert len(leases) == 1


async def test_who_gives_up_is_passed_over(leases):
    held = [leases.grant("a"), leases.grant("b")]
    gone, next_one = await waiting(leases, "c", "d")
    gone.cancel()
    await asyncio.sleep(0)
    leases.release(held[0])
    assert (await next_one).session == "d"
    assert "c" not in leases


async def test_who_gives_up_in_the_moment_of_its_grant_gives_it_to_the_next(leases):
    held = [leases.grant("a"), leases.grant("b")]
    gone, next_one = await waiting(leases, "c", "d")
    leases.release(held[0])
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert (await next_one).session == "d"
    assert sorted(leases._held) == ["b", "d"]


async def test_a_session_renews_its_own_lease_without_waiting(leases):
    leases.grant("b")
    old = leases.grant("a")
    assert (await leases.grant_when_free("a", 0.0)).number > old.number
