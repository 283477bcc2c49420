"""Which sessions may use this replica. Serve calls grant leases; traffic of a session keeps its lease alive."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from adasd.errors import Overloaded
from adasd.ports import Clock


@dataclass(frozen=True, slots=True)
class Lease:
    """A session's right to one slot. A second lease of the same session ends the first."""

    session: str
    number: int  # from 1, in the order of this replica's grants


class LeaseTable:
    """Leases by session. A lease expires after ``idle_ttl_s`` seconds without traffic."""

    def __init__(self, capacity: int, idle_ttl_s: float, clock: Clock) -> None:
        self.capacity, self.idle_ttl_s = capacity, idle_ttl_s
        self._clock = clock
        self._num_granted = 0
        self._held: dict[
            str, tuple[Lease, float]
        ] = {}  # session -> lease, time of its last traffic (seconds)
        self._queue: deque[tuple[str, asyncio.Future[Lease]]] = deque()  # waiting sessions, first come first

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, session: str) -> bool:
        return session in self._held

    def grant(self, session: str) -> Lease:
        """A new lease; raises Overloaded if ``capacity`` other sessions hold one."""
        if session not in self._held and len(self._held) >= self.capacity:
            raise Overloaded(f"all {self.capacity} slots of this replica are leased")
        self._num_granted += 1
        lease = Lease(session, self._num_granted)
        self._held[session] = lease, self._clock()
        return lease

    async def grant_when_free(self, session: str, timeout_s: float) -> Lease:
        """A new lease, first come first served; raises Overloaded if no slot becomes free in ``timeout_s`` seconds."""
        if session in self._held or len(self._held) < self.capacity:
            return self.grant(session)
        turn: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        self._queue.append((session, turn))
        try:
            async with asyncio.timeout(timeout_s):
                return await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():  # granted just as the caller gave up
                self.release(turn.result())
            if isinstance(error, TimeoutError):
                raise Overloaded(
                    f"all {self.capacity} slots of this replica are leased, and none became free within "
                    f"{timeout_s:g} s"
                ) from None
            raise
        finally:
            self._queue = deque(one for one in self._queue if one[1] is not turn)

    def heard(self, session: str) -> bool:
        """Record traffic of the session; False if it holds no lease."""
        held = self._held.get(session)
        if held is None:
            return False
        self._held[session] = held[0], self._clock()
        return True

    def idle_left_s(self, lease: Lease) -> float:
        """Seconds until the lease expires without traffic; 0 once it has ended."""
        held = self._held.get(lease.session)
        if held is None or held[0] != lease:
            return 0.0
        return max(0.0, held[1] + self.idle_ttl_s - self._clock())

    def release(self, lease: Lease) -> bool:
        """End the lease; False if it had ended before (the session may hold a newer one)."""
        held = self._held.get(lease.session)
        if held is None or held[0] != lease:
            return False
        del self._held[lease.session]
        self._serve_next()
        return True

    def _serve_next(self) -> None:
        """Grant free slots to waiting sessions before new ones arrive."""
        while self._queue and len(self._held) < self.capacity:
            session, turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(self.grant(session))
