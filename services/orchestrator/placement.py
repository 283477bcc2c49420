"""Finds a worker with a free slot: a lease on a Serve handle, then a line to the replica that granted it.

The lease is one long-lived streaming call: Serve counts the session as a request, the first item is the replica's
address and incarnation, and the stream ends with the session or with the death of the replica. It uses Serve's gRPC
transport (``_by_reference=False``), because the default one leaks the lease when its holder is killed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol, TypeVar

from adasd.errors import (
    AdasdError,
    DeviceFailure,
    Overloaded,
    StaleIncarnation,
    UnknownSession,
    WorkerLost,
)
from adasd.rounds import DraftBlock, DraftCall, OpenCall, Verdict, VerifyCall
from services.orchestrator.held_leases import KEEP_S, HeldLease, HeldLeases, LeaseStream
from services.transport.link import WorkerAddress
from services.transport.link_pool import LinkPool
from services.transport.options import LINK_FORM
from services.transport.rounds_client import RoundsLine

log = logging.getLogger(__name__)
A = TypeVar("A", DraftBlock, Verdict)

RETRY_S = 0.2
"""Pause between attempts to lease after a replica failed; doubles up to MAX_RETRY_S."""
MAX_RETRY_S = 2.0
TRY_ANOTHER = (WorkerLost, StaleIncarnation, UnknownSession, DeviceFailure)
"""What a replica says that cannot open the session, though another one may."""
DRAFT_LEASE_TIMEOUT_S = 2.0
"""A session does not queue for a draft; it tries again later (ServeConfig.reattach_s)."""


LEASE = "lease"
"""In a grant: the id of the lease, if it is not the one that was asked for (hedged_leases)."""


class LeaseClient(Protocol):
    """Opens a lease stream on a replica of one tier (a Serve handle in production)."""

    def __call__(self, session: str) -> LeaseStream: ...


@dataclass(frozen=True, slots=True)
class Tier:
    """One tier as the orchestrator sees it. ``call_timeout_s`` is the longest time for one call."""

    role: str  # draft | target
    lease_client: LeaseClient
    call_timeout_s: float


class LeasedSlot:
    """A slot on a worker (adasd.ports.Verifier). Opening it may still be in progress."""

    def __init__(
        self, lease: HeldLease, line: RoundsLine, opening: asyncio.Future[None], leases: HeldLeases
    ) -> None:
        self.lease, self.line, self._opening, self._leases = lease, line, opening, leases
        opening.add_done_callback(lambda done: done.cancelled() or done.exception())  # calls raise it instead
        self.lost: asyncio.Future[str] = asyncio.shield(lease.lost)  # ends with the slot, not with the lease
        self.released = False

    async def draft(self, call: DraftCall) -> DraftBlock:
        return await self._asked(self.line.draft(call))

    async def verify(self, call: VerifyCall) -> Verdict:
        """The verdict. Raises the error of the opening if that failed."""
        return await self._asked(self.line.verify(call))

    async def _asked(self, answer: Awaitable[A]) -> A:
        try:
            return await answer
        except AdasdError:
            await self._opening
            raise

    async def release(self) -> None:
        """Give the slot back: close the line, then end the lease or keep it. Safe to call twice and to cancel."""
        if self.released:
            return
        self.released = True
        self.lost.cancel()
        is_free = False
        try:
            await self.line.close()
            is_free = self._was_opened() and self.line.ended_well
        finally:
            if is_free:
                self._leases.give_back(self.lease)
            else:
                self.lease.end()

    def _was_opened(self) -> bool:
        opening = self._opening
        return opening.done() and not opening.cancelled() and opening.exception() is None


def is_first_call_sent_along(tier: Tier, call: OpenCall) -> bool:
    """Whether the first call is sent right after the opening, without waiting for its reply.

    This saves a prompt a round trip, since a link keeps the order. It waits if the worker must first compile a
    grammar, which happens outside its queue. A draft is useless until its slot is known to be open.
    """
    return tier.role == "target" and call.transform.grammar is None


def is_being_cancelled(error: BaseException) -> bool:
    """Whether this is our own cancellation: Serve also raises CancelledError for a stream whose replica died."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def check_form(role: str, grant: Mapping[str, Any]) -> None:
    """WorkerLost if the replica speaks another form of the protocol: another one may be leased instead."""
    form = grant.get("link_form", 1)
    if form != LINK_FORM:
        raise WorkerLost(
            role,
            f"it speaks form {form} of the protocol, this orchestrator {LINK_FORM}; one is being upgraded",
        )


class LeasePlacement:
    """Leases slots for runners (adasd.ports.Placement)."""

    def __init__(
        self,
        target: Tier,
        drafts: Mapping[str, Tier],
        links: LinkPool,
        admission_timeout_s: float,
        headers: Callable[[str], Mapping[str, str]] | None = None,
        keep_s: float = KEEP_S,
    ) -> None:
        """``headers`` returns a session's headers for its lines to workers (a trace context).

        ``keep_s``: how long a lease is kept for the next session; 0 for a new one each time.
        """
        self.target, self.drafts, self.links = target, dict(drafts), links
        self.admission_timeout_s, self._headers = admission_timeout_s, headers or (lambda _: {})
        self.on_target: Callable[[Mapping[str, Any]], None] = lambda _: None  # gets each grant of a target
        self._attempts = count()
        self._leases = {tier: HeldLeases(keep_s) for tier in (target, *drafts.values())}
        self._draft_slots: set[LeasedSlot] = set()  # leased and not lost

    @property
    def holds_draft(self) -> bool:
        """Whether a draft slot is leased here and its replica is alive."""
        return bool(self._draft_slots)

    @property
    def draft_names(self) -> tuple[str, ...]:
        return tuple(self.drafts)

    async def attach_target(self, call: OpenCall) -> LeasedSlot:
        """Lease and open a target slot; raises Overloaded if none is free within the admission timeout.

        A refusal to open may be raised by the first call instead (LeasedSlot).
        """
        loop = asyncio.get_running_loop()
        deadline_s, pause_s = loop.time() + self.admission_timeout_s, RETRY_S
        while True:
            try:
                return await self.attach(self.target, call, deadline_s - loop.time())
            except TRY_ANOTHER as error:
                if loop.time() + pause_s >= deadline_s:
                    raise
                log.warning("no target yet for session %s: %s", call.session, error)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_RETRY_S)

    async def attach_draft(self, call: OpenCall, name: str | None = None) -> LeasedSlot:
        """Lease and open a draft slot; raises Overloaded after a short wait if none is free."""
        tier = self.drafts[name or self.draft_names[0]]
        return await self.attach(tier, call, DRAFT_LEASE_TIMEOUT_S)

    async def attach(self, tier: Tier, call: OpenCall, timeout_s: float) -> LeasedSlot:
        """One attempt; on failure, everything taken is given back."""
        name, leases = f"{call.session}.{next(self._attempts)}", self._leases[tier]
        lease = leases.take() or await self._granted(tier, name, timeout_s)
        try:
            worker = WorkerAddress(tier.role, lease.grant["address"], lease.grant["incarnation"])
            headers = self._headers(call.session)
            line = RoundsLine(
                self.links, worker, lease.lease_id, tier.call_timeout_s, name=name, headers=headers
            )
            opening = asyncio.ensure_future(line.open(call))
            try:
                if is_first_call_sent_along(tier, call):
                    await asyncio.sleep(0)  # lets the opening run its first step, which sends it
                else:
                    await opening
            except BaseException:
                await line.close()
                raise
        except BaseException:
            lease.end()
            raise
        slot = LeasedSlot(lease, line, opening, leases)
        if tier.role == "draft":
            self._draft_slots.add(slot)
            slot.lost.add_done_callback(lambda _: self._draft_slots.discard(slot))
        return slot

    async def _granted(self, tier: Tier, lease_id: str, timeout_s: float) -> HeldLease:
        """A new lease, by Serve; Overloaded, or WorkerLost if the replica cannot be used."""
        stream, leases = tier.lease_client(lease_id), self._leases[tier]
        leases.num_asking += 1
        try:
            try:
                # Not wait_for: before Python 3.12 it swallows a cancellation that coincides with the result.
                async with asyncio.timeout(timeout_s):
                    grant = await stream.__anext__()
            except TimeoutError:
                raise Overloaded(f"no {tier.role} slot became free within {timeout_s:.1f} s") from None
            except (Exception, asyncio.CancelledError) as error:
                if is_being_cancelled(error):
                    raise
                raise WorkerLost(tier.role, f"no lease ({type(error).__name__}: {error})") from error
            check_form(tier.role, grant)
            if tier is self.target:
                self.on_target(grant)
        except BaseException:
            stream.cancel()
            raise
        finally:
            leases.num_asking -= 1
        return HeldLease(grant.get(LEASE, lease_id), stream, grant, leases.clock())

    def close(self) -> None:
        """End the leases that no session uses; from now on none outlives its session."""
        for leases in self._leases.values():
            leases.close()
