"""The Responses object, whole and as a stream of typed, numbered events."""

from __future__ import annotations

from typing import Any

from adasd.results import Chunk, Complete
from services.gateway.backend import Text
from services.gateway.http.choice_stream import ChoiceDelta, ChoiceReader
from services.gateway.http.error_table import error_body, status_of
from services.gateway.http.event_stream import StreamWriter, frame
from services.gateway.http.order import Order
from services.gateway.http.reports import reports_json
from services.gateway.http.response import GatheredAnswer
from services.gateway.http.responses.output_items import OutputItems

DETAILS = {"length": "max_output_tokens"}
"""Finish reasons under OpenAI's names for an answer that is not complete."""


class ResponsesShape:
    """``/v1/responses``."""

    id_prefix = "resp_"

    def whole(
        self, order: Order, head: dict[str, Any], answers: list[GatheredAnswer], text: Text
    ) -> dict[str, Any]:
        (answer,) = answers
        made = _Made(order, head, text)
        for piece in answer.pieces:
            made.push(piece)
        made.items.end(made.item_status)
        return made.finished(answer.end)

    def writer(self, order: Order, head: dict[str, Any], text: Text) -> StreamWriter:
        return ResponseWriter(order, head, text)


class ResponseWriter:
    """Turns the events of one answer into the events of OpenAI's Responses API."""

    end = ""  # the last typed event is the end

    def __init__(self, order: Order, head: dict[str, Any], text: Text) -> None:
        self._reader = ChoiceReader(order, 0, text)
        self._made = _Made(order, head, text)
        self._number = 0  # of the next event
        self._held = ""  # of the last chunk, until its Complete
        self._is_complete = False

    @property
    def is_complete(self) -> bool:
        """Whether the answer has ended."""
        return self._is_complete

    def write(self, index: int, event: Chunk | Complete) -> str:
        """The text for this event; that of the last chunk is held until its Complete."""
        if isinstance(event, Chunk):
            written = self._begun() + self._piece(self._reader.read(event))
            if event.finish_reason is None:
                return written
            self._held = written
            return ""
        written = self._held or self._begun()
        if (ending := self._reader.end(event)) is not None:
            written += self._piece(ending)
        written += self._frames(self._made.items.end(self._made.item_status))
        self._is_complete = True
        response = self._made.finished(event)
        kind = "completed" if response["status"] == "completed" else "incomplete"
        return written + self._frames([{"type": f"response.{kind}", "response": response}])

    def failed(self, error: Exception) -> str:
        """What was held, and the response with its error."""
        return self._held + self._frames([{"type": "response.failed", "response": self._made.failed(error)}])

    def _begun(self) -> str:
        if self._number:
            return ""
        response = self._made.json("in_progress", None)
        kinds = ("response.created", "response.in_progress")
        return self._frames([{"type": kind, "response": response} for kind in kinds])

    def _piece(self, piece: ChoiceDelta) -> str:
        return self._frames(self._made.push(piece))

    def _frames(self, events: list[dict[str, Any]]) -> str:
        written = ""
        for event in events:
            written += frame({**event, "sequence_number": self._number}, event["type"])
            self._number += 1
        return written


class _Made:
    """A response in the making."""

    def __init__(self, order: Order, head: dict[str, Any], text: Text) -> None:
        self.items = OutputItems(text)
        self._order, self._head = order, head
        self._reason: str | None = None
        self._tokens: list[dict[str, Any]] = []  # with their provenance, if asked for

    @property
    def item_status(self) -> str:
        """Status of the last item."""
        is_cut = self._reason == "stop" and self.items.ends_in_call  # a stop string within its arguments
        return "completed" if self._reason in ("stop", "tool_calls") and not is_cut else "incomplete"

    def push(self, piece: ChoiceDelta) -> list[dict[str, Any]]:
        """Add a piece of the answer; returns the events that tell of it."""
        self._reason = piece.finish_reason or self._reason
        self._tokens += piece.provenance
        return self.items.push(piece)

    def json(self, status: str, usage: dict[str, Any] | None) -> dict[str, Any]:
        """The response object. A status other than completed has a detail or an error, which the caller adds."""
        return {
            "id": self._head["id"],
            "object": "response",
            "created_at": self._head["created"],
            "status": status,
            "error": None,
            "incomplete_details": None,
            "model": self._head["model"],
            **self._order.repeated,
            "output": self.items.items("in_progress" if status == "in_progress" else "incomplete"),
            "usage": usage,
        }

    def finished(self, end: Complete) -> dict[str, Any]:
        """The response of an answer that has ended."""
        reports = reports_json(self._order, [end])
        response = self.json(self.item_status, _usage_json(reports.pop("usage")))
        if self.item_status == "incomplete" and self._reason != "stop":  # for that, the API knows no reason
            response["incomplete_details"] = {"reason": DETAILS.get(str(self._reason), self._reason)}
        if self._order.provenance:
            response["adasd"] = {"tokens": self._tokens}
        return {**response, "stop_reason": end.stop_match, **reports}

    def failed(self, error: Exception) -> dict[str, Any]:
        """The response of an answer that failed."""
        told = error_body(error)["error"]
        code = "rate_limit_exceeded" if status_of(error) == 429 else "server_error"  # of OpenAI's closed list
        return {**self.json("failed", None), "error": {"code": code, "message": told["message"]}}


def _usage_json(usage: dict[str, Any]) -> dict[str, Any]:
    """Usage under the names of the Responses API."""
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {**usage["prompt_tokens_details"], "cache_write_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0, **usage.get("completion_tokens_details", {})},
        "total_tokens": usage["total_tokens"],
    }
