"""The worker's end of one link: its sessions by number, and the replies that wait to leave."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from adasd.errors import AdasdError
from adasd.rounds import DraftBlock, Verdict
from services.transport.frames import Opened
from services.transport.reply_codec import ReplyBuffer
from services.transport.server import LinkStream

log = logging.getLogger(__name__)

LAST_WRITE_S = 1.0
"""How long the end of a link waits for the frame that is being written."""

MAX_UNSENT_BYTES = 8 * 1024 * 1024
"""An orchestrator that does not read is not read from either, once so much waits for it."""


@dataclass(slots=True, eq=False)
class LinkedSession:
    """A session of one link."""

    link: LinkEnd
    number: int
    lease: str  # id that its lease was granted to
    headers: Mapping[str, str] = field(default_factory=dict)
    num_unanswered: int = 0  # asks
    is_over: bool = False  # nothing more is said about it


class LinkEnd:
    """Collects replies, and writes all that are there in one frame. ``write`` runs in a task of its own."""

    def __init__(self, stream: LinkStream) -> None:
        self.stream = stream
        self.sessions: dict[int, LinkedSession] = {}
        self.leases: dict[int, str] = {}  # of the sessions
        self._replies = ReplyBuffer()
        self._has_replies: asyncio.Future[None] | None = None  # what the writer waits for
        self._has_room = asyncio.Event()
        self._has_room.set()
        self.is_over = False

    def add(self, session: LinkedSession) -> None:
        self.sessions[session.number], self.leases[session.number] = session, session.lease

    def remove(self, session: LinkedSession) -> None:
        del self.sessions[session.number], self.leases[session.number]

    def reply(self, number: int, answer: Opened | DraftBlock | Verdict | AdasdError) -> None:
        """Answer the ask of this number; a reply that cannot be sent becomes an error, so that nobody waits for it."""
        try:
            self._replies.add(number, answer)
        except Exception as error:
            log.warning("a reply cannot be sent: %s: %s", type(error).__name__, error)
            self._replies.add(number, AdasdError("the reply could not be sent; see the worker's log"))
        self._wake_writer()

    def end(self, session: int, error: AdasdError | None) -> None:
        """Say that the session of this number is over."""
        self._replies.add_end(session, error)
        self._wake_writer()

    async def room(self) -> None:
        """Wait until not too much waits to leave."""
        await self._has_room.wait()

    def _wake_writer(self) -> None:
        if self._has_replies is not None and not self._has_replies.done():  # cancelled once the link is over
            self._has_replies.set_result(None)
        if self._replies.num_bytes > MAX_UNSENT_BYTES:
            self._has_room.clear()

    async def write(self) -> None:
        """Write frames until the link is over; raises the error of the stream."""
        while not self.is_over:
            if not self._replies:
                self._has_replies = asyncio.get_running_loop().create_future()
                await self._has_replies
                continue
            await self.stream.write(self._replies.take())
            if self._replies.num_bytes <= MAX_UNSENT_BYTES:
                self._has_room.set()

    async def stop(self, writing: asyncio.Task[None]) -> None:
        """End ``writing``, the task of ``write``.

        A write that is cancelled on its way can keep gRPC from ever sending the status of the call, so it is waited for
        first; not for long, as an orchestrator may have stopped reading.
        """
        self.is_over = True
        self._wake_writer()
        try:
            await asyncio.wait({writing}, timeout=LAST_WRITE_S)
        finally:
            writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
