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
        """Write frames until cancelled; raises the error of the stream."""
        while True:
            if not self._replies:
                self._has_replies = asyncio.get_running_loop().create_future()
                await self._has_replies
            await self.stream.write(self._replies.take())
            if self._replies.num_bytes <= MAX_UNSENT_BYTES:
                self._has_room.set()
