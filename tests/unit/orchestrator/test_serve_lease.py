"""A lease on a Serve handle ends, however far the call has come."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from ray.serve.handle import DeploymentResponseGenerator

from services.orchestrator.deployment import ServeLease


class Sent:
    """A call that a replica has taken (Serve's ReplicaResult)."""

    def __init__(self) -> None:
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True

    def __aiter__(self) -> Sent:
        return self

    async def __anext__(self) -> dict[str, Any]:
        return {"address": "here"}


def stream_of(sending: asyncio.Task[Sent]) -> DeploymentResponseGenerator[Any]:
    return DeploymentResponseGenerator(sending, None, _is_router_running_in_separate_loop=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("is_awaited", [True, False])
async def test_a_call_that_was_taken_is_ended(is_awaited: bool):
    sent = Sent()

    async def send() -> Sent:
        return sent

    sending = asyncio.create_task(send())
    lease = ServeLease(stream_of(sending))
    if is_awaited:
        assert await lease.__anext__() == {"address": "here"}
    else:
        await sending
    lease.cancel()
    lease.cancel()
    assert sent.is_cancelled


async def test_the_search_for_a_replica_ends():
    never = asyncio.get_running_loop().create_future()
    sending = asyncio.ensure_future(never)
    ServeLease(stream_of(sending)).cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending


async def test_a_search_that_failed_has_nothing_to_end():
    async def send() -> Sent:
        raise RuntimeError("no replica")

    sending = asyncio.create_task(send())
    await asyncio.wait([sending])
    ServeLease(stream_of(sending)).cancel()
