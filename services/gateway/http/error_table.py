"""The table from error codes to HTTP, and the JSON shape in which OpenAI clients expect errors."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse

from adasd.errors import AdasdError, Code, Overloaded, told

log = logging.getLogger(__name__)

FULL_HEADER = "X-Adasd-Full"
"""On a refusal: the orchestrator is full, whoever asks. For the proxy in front (proxy_front), which removes it."""


@dataclass(frozen=True, slots=True)
class Failure:
    """HTTP status and OpenAI error type of one code."""

    status: int
    type: str  # OpenAI's error type


TABLE = {
    Code.INVALID: Failure(400, "invalid_request_error"),
    Code.CONTEXT_TOO_LONG: Failure(400, "invalid_request_error"),
    Code.UNKNOWN_MODEL: Failure(404, "invalid_request_error"),
    Code.UNAUTHENTICATED: Failure(401, "authentication_error"),
    Code.CONFIG: Failure(500, "server_error"),
    Code.OVERLOADED: Failure(429, "rate_limit_error"),
    Code.RATE_LIMITED: Failure(429, "rate_limit_error"),
    Code.DEADLINE: Failure(504, "timeout_error"),
    Code.CANCELLED: Failure(499, "cancelled"),
    Code.UNAVAILABLE: Failure(503, "server_error"),
    Code.WORKER_LOST: Failure(503, "server_error"),
    Code.STALE_INCARNATION: Failure(503, "server_error"),
    Code.UNKNOWN_SESSION: Failure(503, "server_error"),
    Code.STALE_CACHE: Failure(503, "server_error"),
    Code.SUPERSEDED: Failure(503, "server_error"),
    Code.DEVICE: Failure(503, "server_error"),
    Code.INTERNAL: Failure(500, "server_error"),
}


class BodyTooLarge(AdasdError):
    """The HTTP body is longer than the deployment allows; lengths in bytes."""

    code = Code.INVALID

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit

    def __str__(self) -> str:
        return f"the request body is longer than {self.limit} bytes; shorten it or raise max_body_bytes"


def status_of(error: Exception) -> int:
    """HTTP status of any exception."""
    if isinstance(error, BodyTooLarge):
        return 413
    return TABLE[error.code].status if isinstance(error, AdasdError) else 500


def error_body(error: Exception) -> dict[str, Any]:
    """``{"error": {message, type, param, code}}``; the cause of an unexpected error is only logged."""
    if not isinstance(error, AdasdError):
        return openai_error("the server failed on this request; its log says why", "server_error", None, None)
    return openai_error(told(error), TABLE[error.code].type, getattr(error, "param", None), error.code.value)


def openai_error(message: str, kind: str, param: str | None, code: str | None) -> dict[str, Any]:
    """The JSON shape, also for errors without a code of ours (unknown path, wrong method)."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_response(error: Exception) -> JSONResponse:
    """The full response to a request that failed before its first byte."""
    if not isinstance(error, AdasdError):
        log.error("unforeseen error", exc_info=error)
    status = status_of(error)
    headers = {}
    if status in (429, 503):
        wait_s = error.retry_after_s if isinstance(error, Overloaded) else 1.0
        headers["Retry-After"] = str(max(1, math.ceil(wait_s)))
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error_body(error), status, headers)
