"""Serves Rounds streams: checks the lease, holds one slot per stream, and frees the slot when the stream ends."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any

from adasd.errors import AdasdError, Cancelled, InvalidRequest, StaleIncarnation, UnknownSession
from adasd.rounds import DraftBlock, DraftCall, OpenCall, Verdict, VerifyCall
from services.observability.tracing import CallTraces
from services.transport.envelope import Close, Frame, Opened, ReplyFrame
from services.transport.server import RoundsStream
from services.worker.host import EngineHost
from services.worker.leases import LeaseTable

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _OpenStream:
    """The current stream of a session."""

    task: asyncio.Task[Any]
    stream: RoundsStream
    replies: set[asyncio.Task[None]] = field(default_factory=set)
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    ended_by: AdasdError | None = None  # error that ended it

    def end(self, why: AdasdError) -> None:
        """End the stream with ``why``; it hands no more calls to the engine."""
        self.ended_by = self.ended_by or why
        self.task.cancel()
        self.drop_replies()

    def drop_replies(self) -> None:
        """Cancel the replies in progress."""
        for task in self.replies:
            task.cancel()


class WorkerService:
    """The data plane of one replica (a RoundsService). A session has one stream; a newer one replaces it.

    The code that ends a stream frees its slot before the engine gets another call of that session. The engine's inbox
    keeps this order, so a replaced stream cannot free the slot of its successor.
    """

    def __init__(
        self, host: EngineHost, leases: LeaseTable, incarnation: str, traces: CallTraces | None = None
    ) -> None:
        self._traces = traces
        self._host, self._leases, self._incarnation = host, leases, incarnation
        self._streams: dict[str, _OpenStream] = {}

    @property
    def num_streams(self) -> int:
        """Open streams."""
        return len(self._streams)

    async def rounds(self, stream: RoundsStream) -> None:
        """Serve one stream. It ends with StaleIncarnation, UnknownSession or InvalidRequest."""
        frame = await stream.read()
        if frame is None:
            return
        session = frame.session
        self._admit(frame, session)
        open_stream = self._take_over(session, stream)
        try:
            await self._read_frames(open_stream, frame)
        except asyncio.CancelledError:
            if open_stream.ended_by is None:
                raise
            open_stream.task.uncancel()
            raise open_stream.ended_by from None
        finally:
            open_stream.drop_replies()
            if self._streams.get(session) is open_stream:
                del self._streams[session]
                self._host.release(session)

    def end(self, session: str) -> None:
        """End the stream of a session whose lease is over, with UnknownSession, and free its slot."""
        self._end_stream(session, UnknownSession(session))

    async def _read_frames(self, open_stream: _OpenStream, first: Frame) -> None:
        """Take frames until the client closes or ends the stream, without waiting for replies."""
        frame: Frame | None = first
        while frame is not None:
            self._admit(frame, first.session)
            if isinstance(frame.call, Close):
                open_stream.drop_replies()
                return await self._host.close(first.session)
            task = asyncio.create_task(self._reply(open_stream, frame.seq, frame.call))
            open_stream.replies.add(task)
            task.add_done_callback(open_stream.replies.discard)
            frame = await open_stream.stream.read()

    async def _reply(
        self, open_stream: _OpenStream, seq: int, call: OpenCall | DraftCall | VerifyCall
    ) -> None:
        """Reply to one frame. The stream ends if the reply cannot be written, so that no client waits forever."""
        reply = ReplyFrame(seq, await self._traced(open_stream, call))
        try:
            async with open_stream.writing:
                await open_stream.stream.write(reply)
        except Exception as error:
            log.warning(
                "session %s: a reply could not be written: %s: %s", call.session, type(error).__name__, error
            )
            open_stream.end(AdasdError("a reply could not be written; see the worker's log"))

    async def _traced(
        self, open_stream: _OpenStream, call: OpenCall | DraftCall | VerifyCall
    ) -> Opened | DraftBlock | Verdict | AdasdError:
        if self._traces is None:
            return await self._answer(call)
        span = self._traces.begin(open_stream.stream.headers, call)
        answer: object = Cancelled("the caller no longer waits")
        try:
            answer = found = await self._answer(call)
        finally:
            self._traces.end(span, answer)
        return found

    async def _answer(
        self, call: OpenCall | DraftCall | VerifyCall
    ) -> Opened | DraftBlock | Verdict | AdasdError:
        try:
            if isinstance(call, OpenCall):
                await self._host.open(call)
                return Opened()
            return await self._host.submit(call)
        except AdasdError as error:
            return error

    def _admit(self, frame: Frame, session: str) -> None:
        """Refuse a frame for an earlier incarnation, for another session than the stream's, or without a lease."""
        if frame.incarnation != self._incarnation:
            raise StaleIncarnation(frame.incarnation, self._incarnation)
        if frame.session != session:
            raise InvalidRequest(
                f"the stream belongs to session {session}, the message to {frame.session}", "session"
            )
        if not self._leases.heard(session):
            raise UnknownSession(session)

    def _take_over(self, session: str, stream: RoundsStream) -> _OpenStream:
        self._end_stream(session, UnknownSession(session))
        task = asyncio.current_task()
        assert task is not None
        open_stream = self._streams[session] = _OpenStream(task, stream)
        return open_stream

    def _end_stream(self, session: str, why: AdasdError) -> None:
        """End the session's stream, if it has one, and free its slot."""
        open_stream = self._streams.pop(session, None)
        if open_stream is not None:
            open_stream.end(why)
            self._host.release(session)
