"""A replica that hangs keeps nobody waiting: another lease is asked for, and the first grant is kept."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from services.orchestrator.hedged_leases import HedgedLeaseClient
from services.orchestrator.placement import LEASE
from tests.leaks import nothing_runs
from tests.patience import soon


class Call:
    """One call of a lease on a Serve handle. Once cancelled, it hears no answer."""

    def __init__(self, lease: str) -> None:
        self.lease, self.is_cancelled = lease, False
        self.answers: asyncio.Queue[dict[str, Any] | BaseException] = asyncio.Queue()

    async def __anext__(self) -> dict[str, Any]:
        answer = await self.answers.get()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def cancel(self) -> None:
        self.is_cancelled = True

    def grant(self) -> None:
        self.answers.put_nowait({"address": f"of {self.lease}"})


class Calls(list[Call]):
    def __call__(self, lease: str) -> Call:
        self.append(Call(lease))
        return self[-1]


@pytest.fixture
async def calls():
    yield Calls()
    assert await nothing_runs()


async def test_one_call_that_is_answered_is_all_there_is(calls: Calls):
    stream = HedgedLeaseClient(calls, (20.0,))("s")
    asked = asyncio.ensure_future(stream.__anext__())
    await soon(lambda: len(calls) == 1)
    calls[0].grant()
    assert await asked == {"address": "of s", LEASE: "s"}
    lost = asyncio.ensure_future(stream.__anext__())
    calls[0].answers.put_nowait(StopAsyncIteration())
    with pytest.raises(StopAsyncIteration):
        await lost
    assert not calls[0].is_cancelled
    stream.cancel()
    assert calls[0].is_cancelled


async def test_where_a_replica_hangs_another_one_is_asked_and_its_grant_is_kept(calls: Calls):
    stream = HedgedLeaseClient(calls, (0.01, 0.01))("s")
    asked = asyncio.ensure_future(stream.__anext__())
    await soon(lambda: len(calls) == 3)
    calls[1].grant()
    assert await asked == {"address": "of s.1", LEASE: "s.1"}
    await soon(lambda: [call.is_cancelled for call in calls] == [True, False, True])
    assert len({call.lease for call in calls}) == 3
    stream.cancel()
    assert calls[1].is_cancelled


@pytest.mark.parametrize("error", [RuntimeError("the replica died"), asyncio.CancelledError()])
async def test_a_call_that_fails_leaves_the_others_and_the_last_one_says_why(
    calls: Calls, error: BaseException
):
    asked = asyncio.ensure_future(HedgedLeaseClient(calls, (0.01,))("s").__anext__())
    await soon(lambda: len(calls) == 2)
    calls[0].answers.put_nowait(error)
    await soon(lambda: calls[0].is_cancelled)
    assert not asked.done()
    calls[1].answers.put_nowait(error)
    with pytest.raises(type(error)):
        await asked
    assert calls[1].is_cancelled


async def test_who_leaves_ends_all_calls(calls: Calls):
    stream = HedgedLeaseClient(calls, (0.01,))("s")
    asked = asyncio.ensure_future(stream.__anext__())
    await soon(lambda: len(calls) == 2)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    await soon(lambda: all(call.is_cancelled for call in calls))


async def test_a_lease_that_is_cancelled_while_somebody_waits_for_it_ends_the_wait(calls: Calls):
    stream = HedgedLeaseClient(calls, (0.01,))("s")
    asked = asyncio.ensure_future(stream.__anext__())
    await soon(lambda: len(calls) == 2)
    stream.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    await soon(lambda: [call.is_cancelled for call in calls] == [True, True])
    assert len(calls) == 2


async def test_no_two_calls_have_the_same_id_though_one_fails_in_between(calls: Calls):
    stream = HedgedLeaseClient(calls, (0.01, 0.2, 0.01))("s")
    asked = asyncio.ensure_future(stream.__anext__())
    await soon(lambda: len(calls) == 2)
    calls[0].answers.put_nowait(RuntimeError("the replica died"))
    await soon(lambda: len(calls) == 3)
    assert [call.lease for call in calls] == ["s", "s.1", "s.2"]
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
