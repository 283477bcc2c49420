"""Names that callers give to their requests, over HTTP and gRPC alike."""

from __future__ import annotations

import re

SANE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


def sane_id(text: str | None) -> str | None:
    """The text if it may be used as an id in headers, logs and answers."""
    return text if text and SANE_ID.fullmatch(text) else None
