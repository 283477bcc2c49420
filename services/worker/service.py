"""Serves links: checks leases, holds a slot per session, and frees the slot when the session or its link ends."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adasd.errors import (
    AdasdError,
    Cancelled,
    Overloaded,
    StaleIncarnation,
    UnknownSession,
    WorkerLost,
)
from adasd.rounds import DraftCall, OpenCall, VerifyCall
from services.observability.tracing import CallTraces
from services.transport.frames import AskFrame, CallAsk, OpenAsk, Opened
from services.transport.server import LinkStream
from services.worker.call_order import Answer, QueuedCall
from services.worker.engine_thread import CloseSlot, OpenSlot
from services.worker.host import EngineHost
from services.worker.leases import LeaseTable
from services.worker.link_end import LinkedSession, LinkEnd

if TYPE_CHECKING:
    from opentelemetry.trace import Span

log = logging.getLogger(__name__)

MAX_UNANSWERED = 64
"""Asks of one session that may wait at once; a session protocol needs four."""


@dataclass(slots=True, eq=False)
class _Asker:
    """The caller of one ask."""

    session: LinkedSession
    number: int
    traces: CallTraces | None = None
    span: Span | None = None

    def has_left(self) -> bool:
        return self.session.is_over

    def answer(self, answer: Answer) -> None:
        session = self.session
        session.num_unanswered -= 1
        if self.traces is not None and self.span is not None:
            self.traces.end(self.span, Cancelled("the session is over") if session.is_over else answer)
        if not session.is_over:
            session.link.reply(self.number, Opened() if answer is None else answer)


@dataclass(frozen=True, slots=True, eq=False)
class _Closer:
    """The caller of a close: tells the orchestrator that the slot is free."""

    session: LinkedSession

    def has_left(self) -> bool:
        return False

    def answer(self, answer: Answer) -> None:
        self.session.link.end(self.session.number, None)


class WorkerService:
    """The data plane of one replica (a LinkService). A session has one link; a newer opening replaces an older one.

    The code that ends a session frees its slot before the engine gets another call under the same lease. The engine's
    inbox keeps this order, so a replaced session cannot free the slot of its successor.
    """

    def __init__(
        self, host: EngineHost, leases: LeaseTable, incarnation: str, traces: CallTraces | None = None
    ) -> None:
        self._host, self._leases, self._incarnation, self._traces = host, leases, incarnation, traces
        self._sessions: dict[str, LinkedSession] = {}  # by lease
        self._batch: list[QueuedCall | OpenSlot | CloseSlot] = []  # of the frame at hand
        self._preparing: set[asyncio.Task[None]] = set()
        self._links: set[asyncio.Task[Any]] = set()
        self._is_stopping = False

    @property
    def num_streams(self) -> int:
        """Open sessions."""
        return len(self._sessions)

    async def link(self, stream: LinkStream) -> None:
        """Serve one link. It ends with StaleIncarnation, InvalidRequest or WorkerLost, or with its stream."""
        link = LinkEnd(stream)
        writing, reading = asyncio.create_task(link.write()), asyncio.current_task()
        assert reading is not None
        writing.add_done_callback(lambda _: link.is_over or reading.cancel())
        self._links.add(reading)
        try:
            while (frame := await stream.read(link.leases)) is not None:
                self._take(link, frame)
                await link.room()
        except asyncio.CancelledError:
            if self._is_stopping:
                reading.uncancel()
                raise WorkerLost(self._host.role, "it is shutting down") from None
            if not writing.done() or writing.cancelled():
                raise
            reading.uncancel()
            log.info("a link broke: replies could not be written: %r", writing.exception())
            raise AdasdError("replies could not be written; see the worker's log") from None
        finally:
            self._links.discard(reading)
            for session in tuple(link.sessions.values()):
                self._forget(session)
                self._host.release(session.lease)
            await link.stop(writing)

    def end(self, lease: str) -> None:
        """End the session whose lease is over, with UnknownSession, and free its slot."""
        session = self._sessions.get(lease)
        if session is not None:
            self._end(session, UnknownSession(lease))

    async def stop(self) -> None:
        """End all links with WorkerLost, and free their slots."""
        self._is_stopping = True
        links = tuple(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    # ----------------------------------------------------------------- frames

    def _take(self, link: LinkEnd, frame: AskFrame) -> None:
        """Hand the asks to the engine in one piece. Refuses a frame that was meant for an earlier incarnation."""
        if frame.incarnation != self._incarnation:
            raise StaleIncarnation(frame.incarnation)
        for opening in frame.opens:
            self._open(link, opening)
        arrived_s = self._host.clock()
        for ask in frame.calls:
            self._call(link, ask, arrived_s)
        for number in frame.closes:
            self._close(link, number)
        self._hand_in()

    def _hand_in(self) -> None:
        if self._batch:
            batch, self._batch = self._batch, []
            self._host.submit_all(batch)

    def _open(self, link: LinkEnd, ask: OpenAsk) -> None:
        lease = ask.call.session
        if ask.session in link.sessions:
            return log.warning("session %d of a link was opened twice", ask.session)
        if not self._leases.heard(lease):
            return link.end(ask.session, UnknownSession(lease))
        self.end(lease)
        session = self._sessions[lease] = LinkedSession(link, ask.session, lease, ask.headers)
        link.add(session)
        asker = self._asker(session, ask.number, ask.call)
        if ask.call.transform.grammar is None:
            self._batch.append(OpenSlot(ask.call, asker))
        else:
            task = asyncio.create_task(self._prepare_and_open(ask.call, asker))
            self._preparing.add(task)
            task.add_done_callback(self._preparing.discard)

    async def _prepare_and_open(self, call: OpenCall, asker: _Asker) -> None:
        """Compile the grammar first; meanwhile the engine does not know the session."""
        try:
            await self._host.prepare(call)
        except AdasdError as error:
            return asker.answer(error)
        except Exception as error:
            log.exception("a grammar could not be compiled")
            return asker.answer(AdasdError(f"the grammar was refused: {type(error).__name__}: {error}"))
        if asker.session.is_over:
            return asker.answer(None)
        self._host.submit_all([OpenSlot(call, asker)])

    def _call(self, link: LinkEnd, ask: CallAsk, arrived_s: float) -> None:
        session = link.sessions.get(ask.session)
        if session is None:
            return link.reply(ask.number, UnknownSession(f"{ask.session} of this link"))
        if not self._leases.heard(session.lease):
            return self._end(session, UnknownSession(session.lease))
        if session.num_unanswered >= MAX_UNANSWERED:
            why = f"{session.num_unanswered} calls of session {session.lease} wait already"
            return link.reply(ask.number, Overloaded(why))
        self._batch.append(QueuedCall(ask.call, self._asker(session, ask.number, ask.call), arrived_s))

    def _close(self, link: LinkEnd, number: int) -> None:
        session = link.sessions.get(number)
        if session is None:
            return link.end(number, None)
        self._forget(session)
        self._batch.append(CloseSlot(session.lease, _Closer(session)))

    def _asker(self, session: LinkedSession, number: int, call: OpenCall | DraftCall | VerifyCall) -> _Asker:
        session.num_unanswered += 1
        if self._traces is None:
            return _Asker(session, number)
        return _Asker(session, number, self._traces, self._traces.begin(session.headers, call))

    # ----------------------------------------------------------------- the end of a session

    def _end(self, session: LinkedSession, why: AdasdError) -> None:
        """End a session, tell the orchestrator why, and free the slot."""
        self._hand_in()  # what was asked before comes before
        self._forget(session)
        session.link.end(session.number, why)
        self._host.release(session.lease)

    def _forget(self, session: LinkedSession) -> None:
        session.is_over = True
        session.link.remove(session)
        if self._sessions.get(session.lease) is session:
            del self._sessions[session.lease]
