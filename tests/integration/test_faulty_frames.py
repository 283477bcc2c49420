"""Whole frames come late, in another order, twice or not at all: answers stay the target's own, and slots come back.

Session, controller, runner, links and workers are the real ones; the models are tables, and there is no network.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import pytest

from adasd.errors import UnknownSession, WorkerLost
from adasd.rounds import DraftBlock, DraftCall, OpenCall, Verdict, VerifyCall
from adasd.testing.faulty_port import LinkFaults
from services.transport import link_pool
from services.transport.link import WorkerAddress
from services.transport.link_pool import LinkPool
from services.transport.rounds_client import RoundsLine
from services.worker.leases import LeaseTable
from services.worker.service import WorkerService
from tests.integration.test_exact_under_faults import SAMPLINGS, Workers, answer, plain_answer
from tests.leaks import nothing_runs
from tests.memory_link import CALM, MemoryChannel
from tests.patience import soon

FAULTS = {
    "late": LinkFaults(delay_s=0.004, in_order=True),
    "overtaking": LinkFaults(delay_s=0.004),
    "twice": LinkFaults(delay_s=0.002, duplicate=0.3),
    "lossy": LinkFaults(delay_s=0.002, drop=0.03, duplicate=0.1),
}


class LinkedSlot:
    """A slot at the end of a link (adasd.ports.Verifier); its release ends the lease as well."""

    def __init__(self, line: RoundsLine, service: WorkerService) -> None:
        self.line, self.service = line, service
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def draft(self, call: DraftCall) -> DraftBlock:
        return await self.line.draft(call)

    async def verify(self, call: VerifyCall) -> Verdict:
        return await self.line.verify(call)

    async def release(self) -> None:
        self.lost.cancel()
        await self.line.close()
        self.service.end(self.line.session)


class LinkedWorkers(Workers):
    """One link per worker, for all sessions."""

    def __init__(self, faults: LinkFaults, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(CALM, seed)
        self.links = LinkPool()
        self.leases = {role: LeaseTable(1000, 60.0, time.monotonic) for role in self.hosts}
        self.services = {
            role: WorkerService(self.hosts[role], self.leases[role], "life") for role in self.hosts
        }
        self.channels = {
            role: MemoryChannel(service.link, faults, self.rng) for role, service in self.services.items()
        }
        monkeypatch.setattr(link_pool, "connect", lambda address, _: self.channels[address])

    async def attach_target(self, call: OpenCall) -> LinkedSlot:
        while True:
            with suppress(WorkerLost, UnknownSession):  # another attempt, as LeasePlacement makes
                return await self.attach("target", call)

    async def attach(self, role: str, call: OpenCall) -> LinkedSlot:
        name = f"{call.session}.{next(self.names)}"
        self.leases[role].grant(name)
        line = RoundsLine(
            self.links, WorkerAddress(role, role, "life"), name, timeout_s=0.1, close_timeout_s=0.02
        )
        slot = LinkedSlot(line, self.services[role])
        try:
            await line.open(call)
        except BaseException:
            await slot.release()
            raise
        return slot


@pytest.mark.parametrize("sampling", ["greedy", "seeded"])
@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS.keys())
async def test_output_is_the_targets_own(faults, sampling, monkeypatch):
    expected = plain_answer(SAMPLINGS[sampling])
    async with LinkedWorkers(faults, 7, monkeypatch) as workers:
        ways = [answer(workers, f"s{i}", SAMPLINGS[sampling], ahead=i % 2 == 0) for i in range(4)]
        answers = await asyncio.gather(*ways)
        assert all(tokens == expected for tokens, _ in answers)
        assert len(workers.links) == 2
        for engine in workers.engines.values():
            await soon(lambda engine=engine: engine.num_free_slots == engine.num_slots)
            engine.check_integrity()
        calls = [call for channel in workers.channels.values() for call in channel.calls]
        assert not faults.drop or any(call.there.num_dropped + call.back.num_dropped for call in calls)
        assert not any(service.num_streams for service in workers.services.values())
        await workers.links.close()
    assert sum(report.num_draft_rounds for _, report in answers) > 0
    assert await nothing_runs()
