"""Which requests' verdicts make a request's acceptance rule."""

from __future__ import annotations

from enum import StrEnum


class AcceptanceScope(StrEnum):
    """A rule that follows other requests' verdicts makes output depend on traffic; hence the choice."""

    FROZEN = "frozen"  # what the process knew when the request began, unchanged until its end
    CONTINUED = "continued"  # that, and the request's own verdicts
    REQUEST = "request"  # the request's own verdicts alone
