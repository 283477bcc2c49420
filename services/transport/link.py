"""The orchestrator's end of a link: one stream to one worker, which carries the calls of all sessions there.

Asks that are made in one turn of the event loop leave in one frame, and so do those made while a frame is being
written: a link that is behind sends fewer and larger frames. Each session keeps its own deadlines and its own end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

import grpc

from adasd.errors import AdasdError, Cancelled, WorkerLost
from adasd.rounds import DraftBlock, DraftCall, OpenCall, Verdict, VerifyCall
from services.transport.ask_codec import AskBuffer
from services.transport.frames import Ended, Opened, Reply
from services.transport.options import LINK_METHOD
from services.transport.reply_codec import decode_replies
from services.transport.status import error_from_rpc

log = logging.getLogger(__name__)
Answer = Opened | DraftBlock | Verdict


@dataclass(frozen=True, slots=True)
class WorkerAddress:
    """The worker's address from a lease."""

    role: str  # draft | target
    address: str  # host:port
    incarnation: str  # life of the worker process


@dataclass(frozen=True, slots=True, eq=False)
class LinkSession:
    """A session as its link knows it."""

    number: int
    lease: str  # id that its lease was granted to
    name: str  # in replies
    ended: asyncio.Future[AdasdError | None]  # why it is over; None: it was closed


class _Waiting(NamedTuple):
    """An ask without a reply."""

    session: LinkSession
    answer: asyncio.Future[Answer]
    timeout_s: float
    deadline_s: float  # by the loop's clock


class Link:
    """One stream to one worker, made by LinkPool on the running event loop.

    ``over`` is the reason once the stream has ended, and ``on_over`` is called then. Use: ``session =
    link.session(lease)``, ``link.open``, ``await link.ask(...)``, and on every path ``link.close(session)``.
    """

    def __init__(self, channel: grpc.aio.Channel, worker: WorkerAddress, on_over: Callable[[], None]) -> None:
        self.worker = worker
        self.over: AdasdError | None = None
        self._channel, self._on_over = channel, on_over
        self._loop = asyncio.get_running_loop()
        self._stream: grpc.aio.StreamStreamCall = channel.stream_stream(LINK_METHOD)()
        self._out = AskBuffer(worker.incarnation)
        self._has_asks: asyncio.Future[None] | None = None  # what the writer waits for
        self._waiting: dict[int, _Waiting] = {}
        self._sessions: dict[int, LinkSession] = {}
        self._num_asks = self._num_sessions = 0
        self._expiry: asyncio.TimerHandle | None = None
        self._expires_s = inf  # when the timer runs
        self._reader = self._loop.create_task(self._read())
        self._writer = self._loop.create_task(self._write())

    # ----------------------------------------------------------------- sessions and their asks

    def session(self, lease: str, name: str | None = None) -> LinkSession:
        """A new session, which replies call ``name`` (None: as its lease). ``ended`` is done when it is over."""
        self._num_sessions += 1
        ended = self._loop.create_future()
        session = LinkSession(self._num_sessions, lease, name or lease, ended)
        self._sessions[session.number] = session
        if self.over is not None:
            self._end(session, self.over)
        return session

    def open(
        self, session: LinkSession, call: OpenCall, headers: Mapping[str, str], timeout_s: float
    ) -> asyncio.Future[Answer]:
        """Ask for a slot. InvalidRequest if a number does not fit its field; see ``ask`` for the future."""
        self._out.add_open(self._num_asks + 1, session.number, session.lease, call, headers)
        return self._sent(session, timeout_s)

    def ask(
        self, session: LinkSession, call: DraftCall | VerifyCall, timeout_s: float
    ) -> asyncio.Future[Answer]:
        """The reply's future; it raises the call's own error, WorkerLost after ``timeout_s``, or why the session ended.

        Whoever cancels it drops the reply. InvalidRequest if a number does not fit its field.
        """
        self._out.add_call(self._num_asks + 1, session.number, call)
        return self._sent(session, timeout_s)

    def close(self, session: LinkSession) -> bool:
        """End a session here and ask the worker to end it; callers that still wait get Cancelled.

        True if nothing was under way, so that the worker will answer at once (``ended``).
        """
        waiting = [number for number, one in self._waiting.items() if one.session is session]
        for number in waiting:
            self._fail(
                self._waiting.pop(number), Cancelled(f"the line of session {session.lease} was closed")
            )
        if session.number not in self._sessions:
            return False
        self._out.add_close(session.number)
        self._wake_writer()
        return not waiting

    def forget(self, session: LinkSession) -> None:
        """Wait no longer for the worker to end the session."""
        self._end(session, None)

    # ----------------------------------------------------------------- the end

    async def shut_down(self) -> None:
        """End the stream and its channel."""
        self._finish(Cancelled(f"the link to {self.worker.address} was closed"))
        self._stream.cancel()
        self._writer.cancel()  # a write to a stream that never started would wait for ever
        await asyncio.gather(self._reader, self._writer, return_exceptions=True)
        await self._channel.close()

    def _finish(self, error: AdasdError) -> None:
        """End all sessions with this error; the first reason counts."""
        if self.over is not None:
            return
        self.over = error
        if self._expiry is not None:
            self._expiry.cancel()
        for session in tuple(self._sessions.values()):
            self._end(session, error)
        self._on_over()

    def _end(self, session: LinkSession, error: AdasdError | None) -> None:
        """Forget the session; its callers get ``error``."""
        if self._sessions.pop(session.number, None) is None:
            return
        session.ended.set_result(error)
        for number in [number for number, one in self._waiting.items() if one.session is session]:
            waiting = self._waiting.pop(number)
            self._fail(waiting, error or Cancelled(f"session {session.lease} was closed"))

    # ----------------------------------------------------------------- sending

    def _sent(self, session: LinkSession, timeout_s: float) -> asyncio.Future[Answer]:
        """The future of the ask that was just put into the buffer."""
        self._num_asks += 1
        deadline_s = self._loop.time() + timeout_s
        answer: asyncio.Future[Answer] = self._loop.create_future()
        self._waiting[self._num_asks] = _Waiting(session, answer, timeout_s, deadline_s)
        if deadline_s < self._expires_s:
            self._expire_at(deadline_s)
        self._wake_writer()
        return answer

    def _wake_writer(self) -> None:
        if self._has_asks is not None and not self._has_asks.done():  # cancelled once the link is over
            self._has_asks.set_result(None)

    async def _write(self) -> None:
        """Write everything that is ready, frame after frame."""
        try:
            while True:
                if not self._out:
                    self._has_asks = self._loop.create_future()
                    await self._has_asks
                await self._stream.write(self._out.take())
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the stream is over and the reader has the reason; a write that meets the end only gets INTERNAL
        except Exception as error:
            log.exception("unforeseen error in the link to %s", self.worker.address)
            self._finish(WorkerLost(self.worker.role, f"cannot write to it: {type(error).__name__}: {error}"))
            self._stream.cancel()

    # ----------------------------------------------------------------- receiving

    async def _read(self) -> None:
        role = self.worker.role
        try:
            while (data := await self._stream.read()) is not grpc.aio.EOF:
                frame = decode_replies(data, self._name_of)
                for reply in frame.replies:
                    self._deliver(reply)
                for ended in frame.ended:
                    self._deliver_end(ended)
            self._finish(WorkerLost(role, f"{self.worker.address} ended the link"))
        except grpc.aio.AioRpcError as error:
            self._finish(_as_loss(error_from_rpc(error, role), role))
        except asyncio.CancelledError:
            self._finish(WorkerLost(role, f"the link to {self.worker.address} was cancelled"))
        except AdasdError as error:  # a frame that cannot be decoded
            self._finish(WorkerLost(role, str(error)))
            self._stream.cancel()

    def _name_of(self, number: int) -> str | None:
        waiting = self._waiting.get(number)
        return None if waiting is None else waiting.session.name

    def _deliver(self, reply: Reply) -> None:
        waiting = self._waiting.pop(reply.number, None)
        if waiting is None:
            return  # late: no caller waits for it any more
        if isinstance(reply.answer, AdasdError):
            self._fail(waiting, reply.answer)
        elif not waiting.answer.done():
            waiting.answer.set_result(reply.answer)

    def _deliver_end(self, ended: Ended) -> None:
        session = self._sessions.get(ended.session)
        if session is not None:
            self._end(session, ended.error)

    def _fail(self, waiting: _Waiting, error: AdasdError) -> None:
        if not waiting.answer.done():
            waiting.answer.set_exception(error)

    # ----------------------------------------------------------------- deadlines

    def _expire_at(self, deadline_s: float) -> None:
        """Run the timer then. One timer serves all asks: most get their reply long before it runs."""
        if self._expiry is not None:
            self._expiry.cancel()
        self._expires_s = deadline_s
        self._expiry = self._loop.call_at(deadline_s, self._expire)

    def _expire(self) -> None:
        self._expiry, self._expires_s, now_s = None, inf, self._loop.time()
        late = [number for number, one in self._waiting.items() if one.deadline_s <= now_s]
        for number in late:
            waiting = self._waiting.pop(number)
            why = f"no answer from {self.worker.address} in {waiting.timeout_s:g} s"
            self._fail(waiting, WorkerLost(self.worker.role, why))
        if self._waiting:
            self._expire_at(min(one.deadline_s for one in self._waiting.values()))


def _as_loss(error: AdasdError, role: str) -> AdasdError:
    """A stream that ends with only a status means that the worker is lost, unless the error is more specific."""
    return WorkerLost(role, str(error)) if isinstance(error, Cancelled) else error
