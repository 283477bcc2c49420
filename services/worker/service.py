"""Answers Rounds streams: who may speak, one slot per stream, and the slot is free when the stream ends."""

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
class _Speaker:
    """The stream that speaks for a session."""

    task: asyncio.Task[Any]
    stream: RoundsStream
    answering: set[asyncio.Task[None]] = field(default_factory=set)
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    silenced_by: AdasdError | None = None  # why it may not speak any more

    def silence(self, why: AdasdError) -> None:
        """End the stream with ``why``; nothing is asked of the engine in its name any more."""
        self.silenced_by = self.silenced_by or why
        self.task.cancel()
        self.stop_answering()

    def stop_answering(self) -> None:
        """Nobody waits for the answers under way any more."""
        for task in self.answering:
            task.cancel()


class WorkerService:
    """The data plane of one replica (a RoundsService). One stream speaks for a session; a newer one replaces it.

    Slots are freed by whoever ends the speaker, before anything else is asked of the engine for that session:
    the engine's queue keeps the order, so a replaced stream cannot free the slot of its successor.
    """

    def __init__(
        self, host: EngineHost, leases: LeaseTable, incarnation: str, traces: CallTraces | None = None
    ) -> None:
        self._traces = traces
        self._host, self._leases, self._incarnation = host, leases, incarnation
        self._speakers: dict[str, _Speaker] = {}

    @property
    def num_streams(self) -> int:
        """Streams that speak for a session now."""
        return len(self._speakers)

    async def rounds(self, stream: RoundsStream) -> None:
        """Serve one stream. Errors that end it: StaleIncarnation, UnknownSession, InvalidRequest."""
        frame = await stream.read()
        if frame is None:
            return
        session = frame.session
        self._admit(frame, session)
        speaker = self._take_over(session, stream)
        try:
            await self._speak(speaker, frame)
        except asyncio.CancelledError:
            if speaker.silenced_by is None:
                raise
            speaker.task.uncancel()
            raise speaker.silenced_by from None
        finally:
            speaker.stop_answering()
            if self._speakers.get(session) is speaker:
                del self._speakers[session]
                self._host.release(session)

    def end(self, session: str) -> None:
        """The session's lease is over: its stream ends with UnknownSession and its slot is freed."""
        self._silence(session, UnknownSession(session))

    async def _speak(self, speaker: _Speaker, first: Frame) -> None:
        """Take frame after frame until the client closes or ends the stream; none waits for another's answer."""
        frame: Frame | None = first
        while frame is not None:
            self._admit(frame, first.session)
            if isinstance(frame.call, Close):
                speaker.stop_answering()
                return await self._host.close(first.session)
            task = asyncio.create_task(self._reply(speaker, frame.seq, frame.call))
            speaker.answering.add(task)
            task.add_done_callback(speaker.answering.discard)
            frame = await speaker.stream.read()

    async def _reply(self, speaker: _Speaker, seq: int, call: OpenCall | DraftCall | VerifyCall) -> None:
        """Answer one frame. What cannot be written ends the stream: its client must not wait for ever."""
        reply = ReplyFrame(seq, await self._traced(speaker, call))
        try:
            async with speaker.writing:
                await speaker.stream.write(reply)
        except Exception as error:
            log.warning(
                "session %s: an answer was not written: %s: %s", call.session, type(error).__name__, error
            )
            speaker.silence(AdasdError("an answer could not be written; the worker's log says more"))

    async def _traced(
        self, speaker: _Speaker, call: OpenCall | DraftCall | VerifyCall
    ) -> Opened | DraftBlock | Verdict | AdasdError:
        if self._traces is None:
            return await self._answer(call)
        span = self._traces.begin(speaker.stream.headers, call)
        answer: object = Cancelled("nobody waits for the answer any more")
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
        """Refuse messages for a former life, of another session than the stream's, or without a lease."""
        if frame.incarnation != self._incarnation:
            raise StaleIncarnation(frame.incarnation, self._incarnation)
        if frame.session != session:
            raise InvalidRequest(
                f"the stream is of session {session}, the message of {frame.session}", "session"
            )
        if not self._leases.heard(session):
            raise UnknownSession(session)

    def _take_over(self, session: str, stream: RoundsStream) -> _Speaker:
        self._silence(session, UnknownSession(session))
        task = asyncio.current_task()
        assert task is not None
        speaker = self._speakers[session] = _Speaker(task, stream)
        return speaker

    def _silence(self, session: str, why: AdasdError) -> None:
        """End the session's stream, if it has one, and free its slot."""
        speaker = self._speakers.pop(session, None)
        if speaker is not None:
            speaker.silence(why)
            self._host.release(session)
