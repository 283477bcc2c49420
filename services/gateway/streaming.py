"""Server-sent events: one chunk per verification step.

The rule that independent benchmark clients assume (and read speculation from): the first chunk holds the one
token of the prefill and the role, then comes one chunk per step with all its tokens, ``finish_reason`` rides
on the last of them, and usage, effective speculation and metrics follow in a chunk with ``choices: []``.
That chunk is sent if ``stream_options.include_usage`` or a ``speculation`` object was in the request. A step
whose text is still held back is a chunk all the same, with empty text.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from adasd.errors import AdasdError
from adasd.messages import Chunk, Complete, Usage
from adasd.ports import Decode
from services.gateway.failures import error_body
from services.gateway.provenance import Provenance
from services.gateway.reports import metrics_json, speculation_json, usage_json
from services.gateway.shapes import Shape, choice
from services.gateway.validation import Order

log = logging.getLogger(__name__)

DONE = "data: [DONE]\n\n"
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

Events = AsyncGenerator[Chunk | Complete, None]


class EventStream(StreamingResponse):
    """Streams ``frames``; ``close`` runs at the end on every path, also if no frame was ever asked for."""

    def __init__(
        self, frames: AsyncIterator[str], close: Callable[[], Awaitable[None]], headers: dict[str, str]
    ) -> None:
        super().__init__(frames, media_type="text/event-stream", headers={**HEADERS, **headers})
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                await self._close()


async def frames(
    first: Chunk | Complete, rest: Events, order: Order, shape: Shape, head: dict[str, Any], decode: Decode
) -> AsyncGenerator[str, None]:
    """The frames of one answer. A failure becomes an error event, since the status was sent long ago."""
    writer = ChunkWriter(order, shape, head, decode)
    try:
        event = first
        while True:
            for data in writer.write(event):
                yield frame(data)
            if isinstance(event, Complete):
                break
            event = await next_event(rest)
    except Exception as error:
        if not isinstance(error, AdasdError):
            log.exception("unforeseen error in a stream")
        yield frame(error_body(error))
    yield DONE


async def next_event(events: Events) -> Chunk | Complete:
    """The next event; a stream that just ends without Complete has failed."""
    try:
        return await anext(events)
    except StopAsyncIteration:
        raise AdasdError("the answer ended without its last event") from None


def frame(data: dict[str, Any]) -> str:
    """One event. ASCII only: some clients split lines at Unicode separators."""
    return f"data: {json.dumps(data, separators=(',', ':'), allow_nan=False)}\n\n"


class ChunkWriter:
    """Events of one answer to chunk bodies."""

    def __init__(self, order: Order, shape: Shape, head: dict[str, Any], decode: Decode) -> None:
        self._order, self._shape = order, shape
        self._head = {**head, "object": shape.piece}
        self._provenance = Provenance(decode) if order.provenance else None
        self._num_chunks = self._num_tokens = 0
        self._finished = False

    def write(self, event: Chunk | Complete) -> list[dict[str, Any]]:
        """The bodies that this event becomes: one, none, or two at the end of an answer without tokens."""
        if isinstance(event, Chunk):
            return [self._chunk(event)]
        ending = [] if self._finished else [self._chunk(Chunk("", (), event.finish_reason))]
        return [*ending, self._report(event)] if self._order.final_report else ending

    def _chunk(self, chunk: Chunk) -> dict[str, Any]:
        delta = self._shape.delta(chunk.text, first=self._num_chunks == 0)
        entry = choice(0, delta, chunk.finish_reason.value if chunk.finish_reason else None)
        if self._provenance is not None:
            entry["adasd"] = {"tokens": self._provenance.listed(chunk)}
        self._num_chunks += 1
        self._num_tokens += len(chunk.tokens)
        self._finished = chunk.finish_reason is not None
        return {**self._head, "choices": [entry], **self._running_usage()}

    def _running_usage(self) -> dict[str, Any]:
        if self._order.continuous_usage:
            return {"usage": usage_json(Usage(len(self._order.requests[0].prompt), self._num_tokens))}
        return {"usage": None} if self._order.usage_fields else {}

    def _report(self, end: Complete) -> dict[str, Any]:
        return {
            **self._head,
            "choices": [],
            "usage": usage_json(end.usage),
            "speculation": speculation_json(end.speculation),
            "metrics": metrics_json(end.speculation),
        }
