"""An abort reaches every orchestrator replica, and none can delay it."""

from __future__ import annotations

import asyncio

from services.orchestrator import peers
from services.orchestrator.peers import OrchestratorPeers


async def nothing():
    return ()


def asking(answers, asked):
    async def broadcast(request_ids):
        asked.append(request_ids)
        return answers

    return OrchestratorPeers(broadcast, nothing)


async def test_what_any_replica_aborted_was_aborted():
    asked = []
    everybody = asking([("a",), (), ("c", "a"), RuntimeError("it just died")], asked)
    assert await everybody.abort(["c", "b", "a", "a"]) == ("c", "a")
    assert asked == [("c", "b", "a")]
    assert await everybody.abort([]) == ()
    assert len(asked) == 1


async def test_replicas_that_do_not_answer_are_not_waited_for(monkeypatch):
    monkeypatch.setattr(peers, "TIMEOUT_S", 0.01)

    async def silence(_):
        await asyncio.Event().wait()

    assert await OrchestratorPeers(silence, nothing).abort(["a"]) == ()


async def test_no_replicas_is_no_error():
    async def unavailable(_):
        raise RuntimeError("no replicas")

    everybody = OrchestratorPeers(unavailable, nothing)
    assert await everybody.abort(["a"]) == ()
    assert (await everybody.loads()).replicas == ()
