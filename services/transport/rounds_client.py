"""A session's line to one worker: its draft and verify calls over the link that it shares with other sessions."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TypeVar

from adasd.errors import AdasdError, Cancelled, WorkerLost
from adasd.rounds import DraftBlock, DraftCall, OpenCall, Verdict, VerifyCall
from services.transport.frames import Opened
from services.transport.link import Answer, WorkerAddress
from services.transport.link_pool import LinkPool

A = TypeVar("A", Opened, DraftBlock, Verdict)


class RoundsLine:
    """One session on one worker; has the calls of a Drafter and a Verifier, and ignores the session that they name.

    Use: ``line = RoundsLine(pool, worker, session, timeout_s)``, ``await line.open(call)``, calls, and on
    every path ``await line.close()``. Errors of a single call (InvalidRequest, StaleCache, UnknownSession, Overloaded,
    DeviceFailure) leave the line usable; once the session or the link has ended, every later call raises the reason.
    The reply to a caller that no longer waits (deadline passed, or cancelled) is dropped.
    """

    def __init__(
        self,
        pool: LinkPool,
        worker: WorkerAddress,
        session: str,
        timeout_s: float,
        close_timeout_s: float = 1.0,
        name: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """``session`` is the id that the lease was granted to, ``name`` what replies call the session (None: the same).

        ``timeout_s`` bounds the wait for each reply, ``close_timeout_s`` the wait for a clean end. ``headers`` go along
        with the opening (a trace context).
        """
        self.worker, self.session = worker, session
        self._timeout_s, self._close_timeout_s, self._headers = timeout_s, close_timeout_s, headers or {}
        self._pool, self._link = pool, pool.acquire(worker)
        self._session = self._link.session(session, name)
        self._closing: asyncio.Future[None] | None = None
        self._is_silent = False  # the worker did not say in time that it ended the session

    @property
    def over(self) -> AdasdError | None:
        """Why calls are refused; None while they are not."""
        if not self._session.ended.done():
            return None if self._closing is None else self._closed()
        return self._session.ended.result() or self._closed()

    def _closed(self) -> Cancelled:
        return Cancelled(f"the line of session {self.session} was closed")

    @property
    def ended_well(self) -> bool:
        """Whether the session is over because it was closed, so that its lease may be used again."""
        ended = self._session.ended
        return ended.done() and ended.result() is None and not self._is_silent

    async def open(self, call: OpenCall, timeout_s: float | None = None) -> None:
        """Take a slot. Errors: Overloaded, InvalidRequest, StaleIncarnation, UnknownSession, WorkerLost."""
        self._check()
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        self._expect(Opened, await self._link.open(self._session, call, self._headers, limit_s))

    async def draft(self, call: DraftCall, timeout_s: float | None = None) -> DraftBlock:
        """A block; WorkerLost if there is no reply in ``timeout_s`` (None: the line's own)."""
        self._check()
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        return self._expect(DraftBlock, await self._link.ask(self._session, call, limit_s))

    async def verify(self, call: VerifyCall, timeout_s: float | None = None) -> Verdict:
        """A verdict; WorkerLost if there is no reply in ``timeout_s`` (None: the line's own)."""
        self._check()
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        return self._expect(Verdict, await self._link.ask(self._session, call, limit_s))

    def _check(self) -> None:
        if (over := self.over) is not None:
            raise over

    def _expect(self, kind: type[A], answer: Answer) -> A:
        if not isinstance(answer, kind):
            raise WorkerLost(self.worker.role, f"asked for {kind.__name__}, got {type(answer).__name__}")
        return answer

    async def close(self) -> None:
        """Give the slot back; callers that still wait get Cancelled. Idempotent, also from several tasks."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        try:
            if self._link.close(self._session):
                _, silent = await asyncio.wait({self._session.ended}, timeout=self._close_timeout_s)
                self._is_silent = bool(silent)
        finally:
            self._link.forget(self._session)
            self._pool.release(self._link)
