"""Server-sent events: the writes of a streamed response, from the events of its answers.

The events that end a stream are one write, which does not wait for slots to be given back: the response closes the
answers after its last byte is on its way.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import anyio
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from adasd.errors import AdasdError
from adasd.results import Chunk, Complete

log = logging.getLogger(__name__)

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

Events = AsyncGenerator[tuple[int, Chunk | Complete], None]
"""Events of all answers of an order: the choice's index and the event."""


@dataclass(frozen=True, slots=True)
class Write:
    """One write of a response: one or more server-sent events. ASCII."""

    text: str
    last: bool = False  # ends the body


class StreamWriter(Protocol):
    """Turns the events of an order's answers into server-sent events of one route."""

    end: str  # what ends every stream, also one that failed

    @property
    def is_complete(self) -> bool:
        """Whether every answer of the order has ended."""
        ...

    def write(self, index: int, event: Chunk | Complete) -> str:
        """The text for this event of answer ``index``; empty if it is held for the next one."""
        ...

    def failed(self, error: Exception) -> str:
        """What was held, and the error."""
        ...


class EventStream(StreamingResponse):
    """Streams ``pieces``; ``close`` runs at the end on every path, even if no piece was ever pulled.

    The client has the whole response before ``close`` begins, unless it disconnects.
    """

    def __init__(
        self, pieces: AsyncIterator[Write], close: Callable[[], Awaitable[None]], headers: dict[str, str]
    ) -> None:
        super().__init__((), media_type="text/event-stream", headers={**HEADERS, **headers})
        self._pieces, self._close = pieces, close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                await self._close()

    async def stream_response(self, send: Send) -> None:
        """As in the base class, but the last piece ends the body, which saves a write."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for piece in self._pieces:
            body = piece.text.encode("ascii")
            await send({"type": "http.response.body", "body": body, "more_body": not piece.last})


async def pieces(
    first: tuple[int, Chunk | Complete], rest: Events, writer: StreamWriter
) -> AsyncGenerator[Write, None]:
    """The writes of a response. ``rest`` is not pulled after the last Complete.

    A failure becomes an error event, since the status has already been sent.
    """
    event = first
    try:
        while True:
            text = writer.write(*event)
            if writer.is_complete:
                break
            if text:
                yield Write(text)
            event = await anext(rest)
    except Exception as error:
        if not isinstance(error, AdasdError):
            log.exception("unforeseen error in a stream")
        text = writer.failed(error)
    yield Write(text + writer.end, last=True)


def frame(data: dict[str, Any], name: str | None = None) -> str:
    """One event. ASCII only: some clients split lines at Unicode separators."""
    event = f"event: {name}\n" if name else ""
    return f"{event}data: {json.dumps(data, separators=(',', ':'), allow_nan=False)}\n\n"
