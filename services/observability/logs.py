"""Log records of our own packages: text or JSON, each with the id of its request.

Records carry ids, counts, times and errors, but never prompts, answers or keys. Text from clients (a path, an id, a
name in an error message) can neither start a new line nor send control characters to a terminal.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from contextvars import ContextVar
from typing import Any, TextIO

from services.config import LogConfig
from services.observability.service_events import Event, RequestEnded

log = logging.getLogger(__name__)

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""The request that the current task works for; tasks started by it inherit the id."""

PACKAGES = ("adasd", "services")
TEXT = "%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s"
PLAIN = re.compile(r"[\w./:;,@%+~?&*()-]*", re.ASCII)
FIELDS = "fields"
"""Key in ``extra`` of a record's fields: ``log.info("answered", extra={FIELDS: {...}})``."""


def configure(config: LogConfig, stream: TextIO | None = None) -> None:
    """Send the records of our packages to ``stream``. Repeatable.

    The default is the real stderr, which Ray writes to a file per process (worker-*.err). Serve replaces
    ``sys.stderr``, and would prefix each record.
    """
    lose_what_cannot_be_written()
    handler = logging.StreamHandler(stream or sys.__stderr__)
    handler.addFilter(_with_request_id)
    handler.setFormatter(JsonFormatter() if config.format == "json" else TextFormatter(TEXT))
    for name in PACKAGES:
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(config.level.upper())
        logger.propagate = False


def lose_what_cannot_be_written() -> None:
    """A record that cannot be written (the disk is full) is lost, and its writer goes on.

    By default, ``logging`` prints such a failure to ``sys.stderr``, which Serve's replicas log: each failure would fail
    again, down to a RecursionError in whatever wrote the record.
    """
    logging.raiseExceptions = False


def log_answer(event: Event) -> None:
    """An observer that logs one record per answer, with counts only."""
    if not isinstance(event, RequestEnded):
        return
    fields: dict[str, Any] = {"session": event.request_id, "outcome": event.outcome}
    if event.complete is not None:
        usage, report = event.complete.usage, event.complete.speculation
        fields |= {
            "mode": str(report.effective.mode),
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "draft_tokens": report.num_draft_tokens,
            "accepted_tokens": report.num_accepted_tokens,
        }
    log.info("answer ended", extra={FIELDS: fields})


class TextFormatter(logging.Formatter):
    """One line per record, fields as name=value after the message. A traceback follows on indented lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={_quoted(value)}" for name, value in _fields(record).items())
        return escaped(super().formatMessage(record) + fields)

    def formatException(self, ei: Any) -> str:
        return "\n".join(f"  {escaped(line)}" for line in super().formatException(ei).splitlines())


class JsonFormatter(logging.Formatter):
    """One JSON object per record, times in UTC."""

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry: dict[str, Any] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := getattr(record, "request_id", ""):
            entry["request_id"] = request_id
        entry |= {name: value for name, value in _fields(record).items() if name not in entry}
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def escaped(text: str) -> str:
    """The text with unprintable characters as escape sequences, for example a line break as backslash and n."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def _quoted(value: Any) -> str:
    """The value unchanged if it is one plain word, else as JSON text in ASCII."""
    text = str(value)
    return text if PLAIN.fullmatch(text) else json.dumps(text)


def _with_request_id(record: logging.LogRecord) -> bool:
    record.request_id = REQUEST_ID.get()  # printable: the HTTP and gRPC servers ensure that
    return True


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return getattr(record, FIELDS, {})
