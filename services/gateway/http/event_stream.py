"""Server-sent events: one chunk per verify step.

Independent benchmark clients assume this layout (and derive speculation figures from it): the first chunk holds the
role and the one token of the prefill. Then comes one chunk per step with all its tokens; ``finish_reason`` is set on
the last of them. Usage, effective speculation and metrics follow in a chunk with ``choices: []``, which is sent if the
request had ``stream_options.include_usage`` or a ``speculation`` object. A step whose text is still held back is also
sent as a chunk, with empty text.

The events that end a stream are one write, which does not wait for slots to be given back: the response closes the
answers after its last byte is on its way.
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
from adasd.results import Chunk, Complete, Usage
from services.gateway.backend import Text
from services.gateway.http.choice_stream import ChoiceDelta, ChoiceReader
from services.gateway.http.error_table import error_body
from services.gateway.http.openai_format import OpenAiFormat, choice
from services.gateway.http.order import Order
from services.gateway.http.reports import reports_json, usage_json

log = logging.getLogger(__name__)

DONE = "data: [DONE]\n\n"
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

Events = AsyncGenerator[tuple[int, Chunk | Complete], None]
"""Events of all answers of an order: the choice's index and the event."""


class EventStream(StreamingResponse):
    """Streams ``pieces``; ``close`` runs at the end on every path, even if no piece was ever pulled.

    The client has the whole response before ``close`` begins, unless it disconnects.
    """

    def __init__(
        self, pieces: AsyncIterator[str], close: Callable[[], Awaitable[None]], headers: dict[str, str]
    ) -> None:
        super().__init__(pieces, media_type="text/event-stream", headers={**HEADERS, **headers})
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                await self._close()

    async def stream_response(self, send: Send) -> None:
        """As in the base class, but the piece with ``DONE`` ends the body, which saves a write."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        more = True
        async for piece in self.body_iterator:
            assert isinstance(piece, str)
            more = not piece.endswith(DONE)
            await send({"type": "http.response.body", "body": piece.encode("ascii"), "more_body": more})
        if more:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def pieces(
    first: tuple[int, Chunk | Complete], rest: Events, writer: ChunkWriter
) -> AsyncGenerator[str, None]:
    """The writes of a response, each of one or more events; the last one ends with ``DONE``.

    The chunk that ends an answer is held until its Complete arrives. ``rest`` is not pulled after the last Complete.
    A failure becomes an error event, since the status has already been sent.
    """
    event, held = first, ""
    try:
        while True:
            held += "".join(frame(data) for data in writer.write(*event))
            if writer.is_complete:
                break
            if held:
                yield held
                held = ""
            event = await anext(rest)
    except Exception as error:
        if not isinstance(error, AdasdError):
            log.exception("unforeseen error in a stream")
        held += "".join(frame(data) for data in (*writer.left(), error_body(error)))
    yield held + DONE


def frame(data: dict[str, Any]) -> str:
    """One event. ASCII only: some clients split lines at Unicode separators."""
    return f"data: {json.dumps(data, separators=(',', ':'), allow_nan=False)}\n\n"


class ChunkWriter:
    """Turns events of an order's answers into chunk bodies."""

    def __init__(self, order: Order, form: OpenAiFormat, head: dict[str, Any], text: Text) -> None:
        self._order, self._form, self._text = order, form, text
        self._head = {**head, "object": form.piece}
        self._readers = [ChoiceReader(order, index, text) for index in range(len(order.requests))]
        self._begun: set[int] = set()
        self._last: dict[int, dict[str, Any]] = {}  # last chunks of answers, held until their Complete
        self._ends: dict[int, Complete] = {}
        self._num_tokens = 0

    @property
    def is_complete(self) -> bool:
        """Whether every answer of the order has ended."""
        return len(self._ends) == len(self._readers)

    def write(self, index: int, event: Chunk | Complete) -> list[dict[str, Any]]:
        """The bodies for this event; the last chunk of an answer and its Complete share one."""
        if isinstance(event, Chunk):
            body = self._chunk(index, self._readers[index].read(event))
            if event.finish_reason is None:
                return [body]
            self._last[index] = body
            return []
        if (ending := self._readers[index].end(event)) is not None:
            self._last[index] = self._chunk(index, ending)
        self._ends[index] = event
        last = self._last.pop(index)
        last["choices"][0]["stop_reason"] = event.stop_match
        last |= self._running_usage()  # other answers may have added tokens since
        bodies = [last]
        if self._order.final_report and self.is_complete:
            bodies.append(self._report())
        return bodies

    def left(self) -> list[dict[str, Any]]:
        """Last chunks whose Complete never came."""
        return list(self._last.values())

    def _chunk(self, index: int, piece: ChoiceDelta) -> dict[str, Any]:
        delta = self._form.delta(piece, first=index not in self._begun)
        entry = choice(index, delta, self._form.logprobs(piece.listed, self._text), piece.finish_reason)
        if self._order.provenance:
            entry["adasd"] = {"tokens": list(piece.provenance)}
        self._begun.add(index)
        self._num_tokens += piece.num_tokens
        return {**self._head, "choices": [entry], **self._running_usage()}

    def _running_usage(self) -> dict[str, Any]:
        if self._order.continuous_usage:
            return {"usage": usage_json(Usage(self._order.num_prompt_tokens, self._num_tokens))}
        return {"usage": None} if self._order.usage_fields else {}

    def _report(self) -> dict[str, Any]:
        ends = [self._ends[index] for index in range(len(self._readers))]
        return {**self._head, "choices": [], **reports_json(self._order, ends)}
