"""A simulated replica: production's leases, call order and counts around an engine of curves, on a device."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from adasd.errors import AdasdError, Superseded, UnknownSession, WorkerLost
from adasd.ports import Clock
from adasd.rounds import CacheUse, DraftBlock, DraftCall, Verdict, VerifyCall
from cluster.simulation.device import Device, Process, compute
from cluster.simulation.engine import CurveEngine
from cluster.simulation.texts import AnswerText
from services.worker.call_order import CallOrder, QueuedCall
from services.worker.host import AwaitingCaller
from services.worker.host_stats import HostCounters
from services.worker.leases import Lease, LeaseTable
from services.worker.load_meter import LoadMeter


@dataclass(frozen=True, slots=True)
class OpenSlot:
    """Take a slot for a session."""

    session: str
    text: AnswerText
    max_len: int


Request = QueuedCall | OpenSlot | str
"""A call, a slot to be taken, or the session whose slot is to be freed."""


class SimulatedWorker:
    """One replica. Calls are taken between passes, as the engine's thread does."""

    def __init__(
        self,
        role: str,
        number: int,
        engine: CurveEngine,
        device: Device | None,
        worker_ms: float,
        clock: Clock,
    ) -> None:
        self.role, self.number = role, number
        self.leases = LeaseTable(engine.num_slots, math.inf, clock)
        self.counters = HostCounters()
        self.is_draining, self.is_dead = False, False
        self._engine, self._device, self._clock = engine, device, clock
        self._front, self._worker_s = Process(device), 1e-3 * worker_ms
        self._order, self._meter = CallOrder(), LoadMeter()
        self._inbox: deque[Request] = deque()
        self._stepping: asyncio.Task[None] | None = None
        self._lost: dict[str, Callable[[], object]] = {}  # by lease: tells the session

    @property
    def num_free(self) -> int:
        """Slots that a new session may lease."""
        return 0 if self.is_draining or self.is_dead else self.leases.capacity - len(self.leases)

    def open(self, lease: Lease, text: AnswerText, max_len: int, on_loss: Callable[[], object]) -> None:
        """Take a slot for a leased session; ``on_loss`` is called if the replica dies."""
        self._lost[lease.session] = on_loss
        self._inbox.append(OpenSlot(lease.session, text, max_len))
        self._wake()

    def close(self, lease: Lease) -> None:
        """End the lease; the slot is free after the pass under way."""
        self._lost.pop(lease.session, None)
        if self.leases.release(lease) and not self.is_dead:
            self._inbox.append(lease.session)
            self._wake()

    async def call(self, call: DraftCall | VerifyCall) -> DraftBlock | Verdict:
        """The reply; errors as from services.worker.host."""
        await self._front.run(self._worker_s)
        if self.is_dead:
            raise WorkerLost(self.role, "its replica died")
        future: asyncio.Future[DraftBlock | Verdict | None] = asyncio.get_running_loop().create_future()
        self._inbox.append(QueuedCall(call, AwaitingCaller(future), self._clock()))
        self._wake()
        reply = await future
        assert reply is not None
        return reply

    def die(self) -> None:
        """Lose everything, as when the node goes away."""
        self.is_dead = True
        if self._stepping is not None:
            self._stepping.cancel()
        for tell in list(self._lost.values()):
            tell()

    def load(self) -> dict[str, float]:
        """The figures that a replica reports for scaling, since the last time."""
        engine = self._engine
        stats = self.counters.snapshot(
            engine.num_slots, engine.num_sessions, self._order.num_running, CacheUse()
        )
        return self._meter.since_last(stats, len(self.leases))

    # ----------------------------------------------------------------- the engine's thread

    def _wake(self) -> None:
        if self._stepping is None or self._stepping.done():
            self._stepping = asyncio.ensure_future(self._step_on())

    async def _step_on(self) -> None:
        """Passes until nothing waits."""
        self._take_requests()
        while self._engine.num_pending:
            num_calls = self._engine.num_pending
            under_way = self._engine.begin()
            await compute(self._device, 1e-3 * under_way.took_ms)
            self._finish(num_calls, under_way.began_s, self._engine.end(under_way))
            self._take_requests()

    def _finish(self, num_calls: int, began_s: float, replies: list[DraftBlock | Verdict]) -> None:
        now_s = self._clock()
        num_tokens = 0
        for reply in replies:
            queued = self._order.finished(reply.session, reply.epoch)
            if queued is not None:
                reply = replace(reply, queue_ms=max(0.0, 1e3 * (now_s - queued.arrived_s) - reply.compute_ms))
                num_tokens += len(reply.tokens) if isinstance(reply, DraftBlock) else reply.num_accepted + 1
                self._reply(queued, reply)
                if isinstance(queued.call, VerifyCall) and isinstance(reply, Verdict):
                    self._order.remember(queued.call, reply)
            while (ready := self._order.next_ready(reply.session)) is not None:
                self._submit(ready)
        self.counters.add_step(num_calls, num_tokens, now_s - began_s, self.counters.prefix)

    def _take_requests(self) -> None:
        while self._inbox:
            match self._inbox.popleft():
                case OpenSlot(session, text, max_len):
                    self._engine.open(session, text, max_len)
                    self._order.open(session)
                case str(session):
                    for dropped in self._order.close(session):
                        self._reply(dropped, UnknownSession(session))
                    self._engine.close(session)
                case QueuedCall(call) as queued:
                    if self._order.is_outdated(call):
                        self._reply(queued, Superseded(call.session, call.epoch))
                    elif self._order.must_wait(call):
                        self._order.wait(queued)
                    else:
                        self._submit(queued)

    def _submit(self, queued: QueuedCall) -> None:
        call = queued.call
        if queued.caller.has_left():
            return
        if isinstance(call, VerifyCall):
            resolved = self._order.resolved(call)
            if resolved is None:
                return self._reply(queued, Superseded(call.session, call.epoch))
            if call.assuming is not None:
                queued = replace(queued, arrived_s=self._clock())
            call = resolved
        try:
            self._engine.submit(call)
        except AdasdError as error:
            self._reply(queued, error)
        else:
            if (replaced := self._order.started(queued)) is not None:
                self._reply(replaced, Superseded(call.session, replaced.call.epoch))

    def _reply(self, queued: QueuedCall, reply: DraftBlock | Verdict | AdasdError) -> None:
        self.counters.add_reply(queued.call, reply)
        queued.caller.answer(reply)
