"""The items that a Responses object lists as its output, built piece by piece, and the events that tell of them.

Text becomes a message, each call an item of its own. One item is open at a time: the last one.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

from services.gateway.backend import Text
from services.gateway.http.choice_stream import ChoiceDelta
from services.gateway.http.token_lists import ListedToken, chat_logprobs

Event = dict[str, Any]
"""An event without its sequence number."""


@dataclass(slots=True)
class _Message:
    id: str
    text: str = ""
    logprobs: list[dict[str, Any]] = field(default_factory=list)

    def part(self) -> dict[str, Any]:
        """Its only content part."""
        return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": list(self.logprobs)}

    def json(self, status: str) -> dict[str, Any]:
        content = [] if status == "in_progress" else [self.part()]
        return {"id": self.id, "type": "message", "role": "assistant", "status": status, "content": content}

    def done(self) -> list[Event]:
        """The events before ``output_item.done``."""
        text = {"text": self.text, "logprobs": list(self.logprobs), "content_index": 0, "item_id": self.id}
        part = {"part": self.part(), "content_index": 0, "item_id": self.id}
        return [
            {"type": "response.output_text.done", **text},
            {"type": "response.content_part.done", **part},
        ]


@dataclass(slots=True)
class _Call:
    id: str
    call_id: str
    name: str
    arguments: str = ""

    def json(self, status: str) -> dict[str, Any]:
        named = {"call_id": self.call_id, "name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function_call", "status": status, **named}

    def done(self) -> list[Event]:
        """The events before ``output_item.done``."""
        said = {"item_id": self.id, "name": self.name, "arguments": self.arguments}
        return [{"type": "response.function_call_arguments.done", **said}]


class OutputItems:
    """The output of one answer."""

    def __init__(self, text: Text) -> None:
        self._text = text
        self._closed: list[dict[str, Any]] = []
        self._open: _Message | _Call | None = None
        self._waiting: list[ListedToken] = []  # tokens whose text is not shown yet

    def items(self, status: str) -> list[dict[str, Any]]:
        """All items; the one that is open has this status."""
        return [*self._closed, self._open.json(status)] if self._open else list(self._closed)

    @property
    def ends_in_call(self) -> bool:
        """Whether the last item is a call."""
        if self._open is not None:
            return isinstance(self._open, _Call)
        return bool(self._closed) and self._closed[-1]["type"] == "function_call"

    def push(self, piece: ChoiceDelta) -> list[Event]:
        """Add a piece of the answer; returns the events that tell of it.

        A piece may end the open call, say something and begin further calls: in this order.
        """
        self._waiting += piece.listed
        events = [event for call in piece.calls if "id" not in call for event in self._call(call)]
        events += self._say(piece.text) if piece.text else []
        return events + [event for call in piece.calls if "id" in call for event in self._call(call)]

    def end(self, status: str) -> list[Event]:
        """The answer is over; its last item has this status. An answer without anything is an empty message."""
        events = [] if self._closed or self._open else self._begin(_Message(_new_id("msg")))
        if isinstance(self._open, _Message):
            self._open.logprobs += self._listed()
        return events + self._close(status)

    def _say(self, text: str) -> list[Event]:
        events: list[Event] = []
        if not isinstance(self._open, _Message):
            events = self._begin(_Message(_new_id("msg")))
        assert isinstance(self._open, _Message)
        logprobs = self._listed()
        self._open.text += text
        self._open.logprobs += logprobs
        delta = {"delta": text, "logprobs": logprobs, "content_index": 0, "item_id": self._open.id}
        return [*events, self._here({"type": "response.output_text.delta", **delta})]

    def _call(self, call: dict[str, Any]) -> list[Event]:
        self._waiting.clear()  # calls have no place for log-probabilities
        function, events = call["function"], list[Event]()
        if "id" in call:
            events = self._begin(_Call(_new_id("fc"), call["id"], function["name"]))
        assert isinstance(self._open, _Call)
        if not (arguments := function["arguments"]):
            return events
        self._open.arguments += arguments
        delta = {"delta": arguments, "item_id": self._open.id}
        return [*events, self._here({"type": "response.function_call_arguments.delta", **delta})]

    def _begin(self, item: _Message | _Call) -> list[Event]:
        """Close the open item and open this one."""
        events = self._close("completed")
        self._open = item
        events.append(self._here({"type": "response.output_item.added", "item": item.json("in_progress")}))
        if isinstance(item, _Message):
            added = {"part": item.part(), "content_index": 0, "item_id": item.id}
            events.append(self._here({"type": "response.content_part.added", **added}))
        return events

    def _close(self, status: str) -> list[Event]:
        if self._open is None:
            return []
        item = self._open.json(status)
        events = [*self._open.done(), {"type": "response.output_item.done", "item": item}]
        events = [self._here(event) for event in events]
        self._closed.append(item)
        self._open = None
        return events

    def _here(self, event: Event) -> Event:
        """The event, with the index of the open item."""
        return {**event, "output_index": len(self._closed)}

    def _listed(self) -> list[dict[str, Any]]:
        """Log-probabilities of the tokens that waited for text."""
        logprobs = chat_logprobs(self._waiting, self._text)
        self._waiting.clear()
        return logprobs["content"] if logprobs else []


def _new_id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"
