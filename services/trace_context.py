"""The W3C trace context of the request being served."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass

TRACEPARENT, TRACESTATE = "traceparent", "tracestate"
SANE_PARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class Incoming:
    """Operation and trace context of one request."""

    operation: str = "text_completion"  # a gen_ai.operation.name: chat | text_completion
    traceparent: str | None = None
    tracestate: str | None = None

    @property
    def carrier(self) -> dict[str, str]:
        """The two headers as a dict, the form that OpenTelemetry's propagators read."""
        headers = {TRACEPARENT: self.traceparent, TRACESTATE: self.tracestate}
        return {name: value for name, value in headers.items() if value}


NOBODYS = Incoming()
INCOMING: ContextVar[Incoming] = ContextVar("incoming", default=NOBODYS)
"""The request that the current task serves; tasks that it starts inherit the value."""


def from_headers(headers: Iterable[tuple[str, str | bytes]], operation: str) -> Incoming:
    """From HTTP headers or gRPC metadata (lower-case names); an invalid trace context is ignored."""
    found = {
        name: value
        for name, value in headers
        if name in (TRACEPARENT, TRACESTATE) and isinstance(value, str) and len(value) <= 512
    }
    parent = found.get(TRACEPARENT)
    if parent is None or not SANE_PARENT.fullmatch(parent):
        return Incoming(operation)
    return Incoming(operation, parent, found.get(TRACESTATE))
