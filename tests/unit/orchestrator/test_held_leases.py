"""Which leases are kept for the next session, and for how long."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from services.orchestrator.held_leases import KEEP_S, MAX_AGE_S, HeldLease, HeldLeases
from tests.patience import soon


class Stream:
    """A lease's stream after its grant; the replica ends it with ``end``."""

    def __init__(self) -> None:
        self.end: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.is_cancelled = False

    async def __anext__(self) -> dict[str, Any]:
        return await self.end

    def cancel(self) -> None:
        self.is_cancelled = True


async def settled() -> None:
    """Leases that were ended have been given back."""
    for _ in range(3):
        await asyncio.sleep(0)


def lease(num_slots: int = 16, granted_s: float = 0.0) -> tuple[HeldLease, Stream]:
    stream = Stream()
    return HeldLease("lease", stream, {"num_slots": num_slots}, granted_s), stream


async def test_the_lease_that_was_used_last_is_taken_first_and_only_an_eighth_is_kept():
    leases = HeldLeases(clock=lambda: 0.0)
    first, second, third = (lease() for _ in range(3))
    for one, _ in (first, second, third):
        leases.give_back(one)
    await settled()
    assert [stream.is_cancelled for _, stream in (first, second, third)] == [False, False, True]
    assert [leases.take(), leases.take(), leases.take()] == [second[0], first[0], None]
    assert not any(stream.is_cancelled for _, stream in (first, second))
    first[0].end()
    second[0].end()


@pytest.mark.parametrize("num_slots", [1, 7])
async def test_small_replicas_keep_none(num_slots: int):
    leases = HeldLeases(clock=lambda: 0.0)
    one, stream = lease(num_slots)
    leases.give_back(one)
    await settled()
    assert (len(leases), stream.is_cancelled) == (0, True)


async def test_none_is_kept_while_somebody_waits_for_a_grant():
    leases = HeldLeases(clock=lambda: 0.0)
    one, stream = lease()
    leases.num_asking = 1
    leases.give_back(one)
    await settled()
    assert stream.is_cancelled


@pytest.mark.parametrize("age_s", [0.0, MAX_AGE_S])
async def test_an_old_lease_goes_back_to_serve(age_s: float):
    now_s = [0.0]
    leases = HeldLeases(clock=lambda: now_s[0])
    one, stream = lease()
    leases.give_back(one)
    now_s[0] = age_s
    assert leases.take() is (one if age_s < MAX_AGE_S else None)
    await settled()
    assert stream.is_cancelled == (age_s >= MAX_AGE_S)
    one.end()


async def test_a_lease_that_the_replica_ended_is_not_used_again():
    leases = HeldLeases(clock=lambda: 0.0)
    one, stream = lease()
    leases.give_back(one)
    stream.end.set_exception(ConnectionError("the replica died"))
    await soon(one.lost.done)
    assert one.lost.result() == "its replica died (ConnectionError)"
    assert leases.take() is None


async def test_a_kept_lease_ends_after_a_while_and_with_its_placement():
    leases = HeldLeases(keep_s=KEEP_S / 100, clock=lambda: 0.0)
    one, stream = lease()
    leases.give_back(one)
    assert not stream.is_cancelled
    await soon(lambda: stream.is_cancelled)
    assert len(leases) == 0
    other, its = lease()
    leases.close()
    leases.give_back(other)
    await settled()
    assert its.is_cancelled
