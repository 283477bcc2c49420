"""Leases: who holds one, for how long, and that an old one cannot end a new one."""

from __future__ import annotations

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
