"""Chunks of a chat or text completion's stream: one per verify step.

Independent benchmark clients assume this layout (and derive speculation figures from it): the first chunk holds the
role and the one token of the prefill. Then comes one chunk per step with all its tokens; ``finish_reason`` is set on
the last of them. Usage, effective speculation and metrics follow in a chunk with ``choices: []``, which is sent if the
request had ``stream_options.include_usage`` or a ``speculation`` object. A step whose text is still held back is also
sent as a chunk, with empty text.
"""

from __future__ import annotations

from typing import Any

from adasd.results import Chunk, Complete, Usage
from services.gateway.backend import Text
from services.gateway.http.choice_stream import ChoiceDelta, ChoiceReader
from services.gateway.http.error_table import error_body
from services.gateway.http.event_stream import frame
from services.gateway.http.openai_format import OpenAiFormat, choice
from services.gateway.http.order import Order
from services.gateway.http.reports import reports_json, usage_json


class ChunkWriter:
    """Turns events of an order's answers into chunks."""

    end = "data: [DONE]\n\n"

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

    def write(self, index: int, event: Chunk | Complete) -> str:
        """The chunks for this event; the last chunk of an answer is held until its Complete, and shares one with it."""
        return "".join(map(frame, self._bodies(index, event)))

    def failed(self, error: Exception) -> str:
        """Last chunks whose Complete never came, and the error."""
        return "".join(map(frame, (*self._last.values(), error_body(error))))

    def _bodies(self, index: int, event: Chunk | Complete) -> list[dict[str, Any]]:
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
