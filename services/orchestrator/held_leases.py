"""Leases from their grant to their end. Some outlive their session for a moment, so that the next one needs no grant.

A grant is a call through Serve's router to the replica and back, which takes 2 to 3 ms. A lease whose slot was given
back is kept for KEEP_S, unless somebody waits for a slot of that tier: then Serve shall pass it on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Protocol

from adasd.ports import Clock

KEEP_S = 2.0
MAX_AGE_S = 10.0
"""No older lease is used again, so that Serve's router chooses now and then, and a replica that drains becomes free."""
KEPT_SHARE = 1 / 8
"""The most slots of one replica that are kept: the rest is open to other orchestrators at once."""


class LeaseStream(Protocol):
    """The streaming response of ``Worker.lease`` on a Serve handle."""

    async def __anext__(self) -> dict[str, Any]: ...

    def cancel(self) -> None: ...


class HeldLease:
    """One granted lease. ``lost`` gets the reason when the replica ends it."""

    def __init__(
        self, lease_id: str, stream: LeaseStream, grant: Mapping[str, Any], granted_s: float
    ) -> None:
        self.lease_id, self.grant, self.granted_s = lease_id, grant, granted_s
        self._stream, self._has_ended = stream, False
        self.lost: asyncio.Future[str] = asyncio.ensure_future(self._until_lost())

    def end(self) -> None:
        """Give it back to Serve, once nothing waits on its stream any more. Idempotent."""
        if not self._has_ended:
            self._has_ended = True
            self.lost.cancel()
            self.lost.add_done_callback(lambda _: self._stream.cancel())

    async def _until_lost(self) -> str:
        try:
            await self._stream.__anext__()
        except StopAsyncIteration:
            return "its lease expired"
        except (Exception, asyncio.CancelledError) as error:
            if self._has_ended:  # Serve has its own error for that, too, and nobody waits for this any more
                return "it was given back"
            return f"its replica died ({type(error).__name__})"
        return "its lease was answered twice"


class HeldLeases:
    """The leases of one tier that wait for their next session. Belongs to one event loop."""

    def __init__(self, keep_s: float = KEEP_S, clock: Clock = time.monotonic) -> None:
        """``keep_s``: 0 keeps none."""
        self._keep_s, self.clock = keep_s, clock
        self._kept: dict[HeldLease, asyncio.TimerHandle] = {}  # in the order in which their sessions ended
        self.num_asking = 0  # attempts that wait for a grant

    def __len__(self) -> int:
        return len(self._kept)

    def take(self) -> HeldLease | None:
        """The lease that was used last; its slot's memory is the warmest. None if there is none."""
        while self._kept:
            lease, timer = self._kept.popitem()
            timer.cancel()
            if self._is_good(lease):
                return lease
            lease.end()
        return None

    def give_back(self, lease: HeldLease) -> None:
        """Keep the lease for a while, or end it."""
        num_slots = int(lease.grant["num_slots"])
        has_room = len(self._kept) < int(KEPT_SHARE * num_slots)
        if self._keep_s and has_room and not self.num_asking and self._is_good(lease):
            self._kept[lease] = asyncio.get_running_loop().call_later(self._keep_s, self._expire, lease)
        else:
            lease.end()

    def close(self) -> None:
        """End all that are kept, and keep none from now on."""
        self._keep_s = 0.0
        while self._kept:
            lease, timer = self._kept.popitem()
            timer.cancel()
            lease.end()

    def _is_good(self, lease: HeldLease) -> bool:
        return not lease.lost.done() and self.clock() - lease.granted_s < MAX_AGE_S

    def _expire(self, lease: HeldLease) -> None:
        del self._kept[lease]
        lease.end()
