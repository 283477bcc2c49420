"""Validates request ids of callers, with one rule for HTTP and gRPC."""

from __future__ import annotations

import re

SANE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


def sane_id(text: str | None) -> str | None:
    """The text if it is a valid request id, else None. Ids appear in headers, logs and answers."""
    return text if text and SANE_ID.fullmatch(text) else None
