"""When Serve stops a replica, its ingress wrapper must wait for the shutdown, or running gRPC answers are cut."""

from __future__ import annotations

import asyncio

from services.orchestrator.deployment import Orchestrator


class Replica:
    """The parts of an orchestrator that its shutdown needs."""

    def __init__(self, is_shut_down: bool) -> None:
        self.is_shut_down, self.num_shut_downs = is_shut_down, 0

    async def shutdown(self) -> None:
        await asyncio.sleep(0)
        self.num_shut_downs += 1


async def test_serve_s_destructor_returns_after_the_shutdown():
    replica = Replica(is_shut_down=False)
    await Orchestrator.__del__(replica)
    assert replica.num_shut_downs == 1


async def test_and_does_not_shut_down_twice_or_what_never_began():
    ended, never_made = Replica(is_shut_down=True), object.__new__(Replica)
    await Orchestrator.__del__(ended)
    await Orchestrator.__del__(never_made)
    assert ended.num_shut_downs == 0
