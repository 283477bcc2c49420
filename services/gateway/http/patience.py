"""How long an HTTP connection may keep a proxy waiting, and what becomes of one that is closed in one direction.

Serve's proxy speaks HTTP by uvicorn, which waits without limit for a connection's first request and for the end of a
head, and drops a request whose client has closed its sending side (``printf ... | nc``). This protocol takes its place:

* A head that is not complete HEAD_S after the connection was made, or after its first byte on a connection in use, is
  answered with 408.
* A request that came whole gets its answer also if its client sends no more. Whether the client still listens can be
  found out only by writing: until the answer begins, a ``100 Continue`` now and then, which HTTP/1.1 has clients skip.
"""

from __future__ import annotations

import asyncio
from itertools import chain, repeat

import uvicorn.config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_S = 20.0
"""Time for the head of a request."""
LINGER_S = 1.0
"""How long a connection that was given up is read on: bytes on their way to a closed one would reset it, and the client
would not see why.
"""
LISTENS_S = (0.0, 0.1, 0.4, 1.5, 5.0)
"""Pauses between the questions whether a half-closed connection is still open; the last one repeats."""
TIMED_OUT = b"the head of the request was not complete in time; send it faster"


def install() -> None:
    """What uvicorn starts in this process from now on has this protocol. Repeatable."""
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:PatientProtocol"


class PatientProtocol(HttpToolsProtocol):
    """One connection."""

    _head: asyncio.TimerHandle | None = None
    _question: asyncio.TimerHandle | None = None
    _end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._end is not None:
            return
        super().data_received(data)
        if self._head is None and not self._is_answering and not self.transport.is_closing():
            self._await_head()

    def on_headers_complete(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None
        super().on_headers_complete()

    def eof_received(self) -> bool:  # type: ignore[override]  # true: the sending direction stays open
        if not self._is_answering or self.cycle.more_body or self.scheme == "https":
            return False
        self.cycle.keep_alive = False
        self._ask(chain(LISTENS_S, repeat(LISTENS_S[-1])))
        return True

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _await_head(self) -> None:
        self._head = self.loop.call_later(HEAD_S, self._give_up)

    def _give_up(self) -> None:
        self._head = None
        if not self.transport.is_closing():
            head = (
                f"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: {len(TIMED_OUT)}\r\n"
            )
            self.transport.write(f"{head}content-type: text/plain\r\n\r\n".encode() + TIMED_OUT)
            if not self.transport.can_write_eof():  # TLS
                return self.transport.close()
            self.transport.write_eof()
            self._end = self.loop.call_later(LINGER_S, self.transport.close)

    def _ask(self, pauses_s: chain[float]) -> None:
        """A client that has closed the whole connection lets the second write fail, which ends its request."""
        if self._is_answering and not self.cycle.response_started and not self.transport.is_closing():
            if self.scope["http_version"] == "1.1":
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._question = self.loop.call_later(next(pauses_s), self._ask, pauses_s)

    def _cancel_timers(self) -> None:
        for timer in (self._head, self._question, self._end):
            if timer is not None:
                timer.cancel()
