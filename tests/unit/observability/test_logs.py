"""Log lines: a client's text cannot pass for a log line, a field or a terminal command."""

from __future__ import annotations

import io
import json
import logging
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.config import LogConfig
from services.observability import logs

FORGED = (
    "x\n2026-01-01 00:00:00,000 INFO services [r] request ended status=200\x1b[2J\x9b31m\u2028\u202eevil\r"
)


@pytest.fixture
def write():
    """Writes one record as a replica does and returns the lines of the log."""

    def written(form, message, request_id="", error=None, **fields):
        stream = io.StringIO()
        logs.configure(LogConfig(format=form), stream)
        token = logs.REQUEST_ID.set(request_id)
        exc_info = (type(error), error, None) if error else None
        logging.getLogger("services.test").info("%s", message, extra={logs.FIELDS: fields}, exc_info=exc_info)
        logs.REQUEST_ID.reset(token)
        return stream.getvalue().split("\n")[:-1]

    return written


@pytest.mark.parametrize("form", ["text", "json"])
def test_control_characters_neither_break_the_line_nor_reach_the_terminal(write, form):
    (line,) = write(form, FORGED, request_id=FORGED, path=FORGED)
    assert line.isprintable()
    assert r"\n2026" in line
    assert r"\u001b[2J" in line or r"\x1b[2J" in line


def test_an_error_message_of_several_lines_stays_indented(write):
    first, *rest = write("text", "failed", error=ValueError(FORGED))
    assert first.endswith("failed")
    assert len(rest) > 1
    assert all(line.startswith("  ") and line.isprintable() for line in rest)
    (line,) = write("json", "failed", error=ValueError(FORGED))
    assert "ValueError" in json.loads(line)["error"]


def test_a_value_cannot_pass_for_a_field_of_its_own(write):
    (line,) = write("text", "request ended", path="/v1 status=200", status=404, user='a"b')
    assert line.endswith(r'request ended path="/v1 status=200" status=404 user="a\"b"')


def test_a_record_that_cannot_be_written_is_lost_without_a_sound(monkeypatch):
    """Serve's replicas log what is written to ``sys.stderr``, so that a failure told there would fail again."""

    class Redirected:
        def write(self, text: str) -> None:
            logging.getLogger("services.test").info(text)

        flush = staticmethod(lambda: None)

    monkeypatch.setattr(sys, "stderr", Redirected())
    full = Path("/dev/full").open("w")  # noqa: SIM115 (closing fails, too)
    logs.configure(LogConfig(), full)
    logging.getLogger("services.test").info("lost")
    with suppress(OSError):
        full.close()


@given(st.text())
def test_any_text_is_one_line_once_escaped(text):
    assert len(logs.escaped(text).splitlines()) <= 1
    assert logs.escaped(logs.escaped(text)) == logs.escaped(text)
