"""Which sessions may use this replica: granted by the control plane, kept alive by their own traffic. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from adasd.errors import Overloaded
from adasd.ports import Clock


@dataclass(frozen=True, slots=True)
class Lease:
    """One grant. A session that is granted a second lease makes the first one void."""

    session: str
    number: int  # counts the grants of this replica


class LeaseTable:
    """Leases by session. One that is not heard of for ``idle_ttl_s`` seconds has expired."""

    def __init__(self, capacity: int, idle_ttl_s: float, clock: Clock) -> None:
        self.capacity, self.idle_ttl_s = capacity, idle_ttl_s
        self._clock = clock
        self._num_granted = 0
        self._held: dict[str, tuple[Lease, float]] = {}  # session -> lease, when heard of last (seconds)

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, session: str) -> bool:
        return session in self._held

    def grant(self, session: str) -> Lease:
        """A new lease; Overloaded if ``capacity`` other sessions hold one."""
        if session not in self._held and len(self._held) >= self.capacity:
            raise Overloaded(f"all {self.capacity} slots of this replica are leased")
        self._num_granted += 1
        lease = Lease(session, self._num_granted)
        self._held[session] = lease, self._clock()
        return lease

    def heard(self, session: str) -> bool:
        """Note traffic of the session; False if it holds no lease."""
        held = self._held.get(session)
        if held is None:
            return False
        self._held[session] = held[0], self._clock()
        return True

    def idle_left_s(self, lease: Lease) -> float:
        """Seconds until the lease expires unless it is heard of; 0 once it is void, released or expired."""
        held = self._held.get(lease.session)
        if held is None or held[0] != lease:
            return 0.0
        return max(0.0, held[1] + self.idle_ttl_s - self._clock())

    def release(self, lease: Lease) -> bool:
        """End the lease; False if it was void already (the session may hold a newer one)."""
        held = self._held.get(lease.session)
        if held is None or held[0] != lease:
            return False
        del self._held[lease.session]
        return True
