"""Middleware around every HTTP request: assigns an id, checks the key, logs the end. Plain ASGI.

Bodies are neither read nor logged here; paths are logged without their query.
"""

from __future__ import annotations

import logging
import time
import uuid
from contextlib import AsyncExitStack
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adasd.errors import InvalidRequest, RateLimited, Unauthenticated
from services.config import ApiKey
from services.gateway.auth.key_ring import KeyRing, Use
from services.gateway.http.error_table import error_response
from services.gateway.http.playground_routes import FILES
from services.observability.logs import FIELDS, REQUEST_ID
from services.observability.service_events import Observer, RequestRefused
from services.request_ids import sane_id
from services.trace_context import INCOMING, Incoming, from_headers

log = logging.getLogger(__name__)

REQUEST_ID_HEADER = "X-Request-Id"
OPEN_PATHS = frozenset({"/", "/health", "/ready"})
"""Need no key, like the playground's files: they hold no data, and the page asks for a key before it calls anything."""
QUIET_PATHS = frozenset({"/health", "/ready", "/metrics"})
"""Polled every few seconds by machines; logged only on failure."""


class RequestIds:
    """Gives every request an id (the client's own if it is valid) and logs its end.

    ``answer``: repeat the id in a response header.
    """

    def __init__(self, app: ASGIApp, answer: bool = True) -> None:
        self.app, self.answer = app, answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request_id = sane_id(Headers(scope=scope).get(REQUEST_ID_HEADER)) or uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        token, began_s, status = REQUEST_ID.set(request_id), time.monotonic(), 500
        incoming = INCOMING.set(_incoming(scope))

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self.answer:
                    MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request_id
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        finally:
            _log_end(scope, status, time.monotonic() - began_s)
            INCOMING.reset(incoming)
            REQUEST_ID.reset(token)


class Tolerance:
    """Ignores a slash at the end of a path, and answers HEAD wherever GET is served."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if path_of(scope).endswith("/") and path_of(scope) != "/":
            scope = {**scope, "path": scope["path"].rstrip("/")}
        if scope["method"] != "HEAD":
            return await self.app(scope, receive, send)

        async def send_head(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        await self.app({**scope, "method": "GET"}, receive, send_head)


class KeyGuard:
    """Refuses requests without a known key outside OPEN_PATHS, and counts POST requests against the key's limits."""

    def __init__(self, app: ASGIApp, keys: KeyRing, tell: Observer) -> None:
        self.app, self.keys, self.tell = app, keys, tell

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or _is_open(path_of(scope)):
            return await self.app(scope, receive, send)
        async with AsyncExitStack() as stack:
            try:
                key, used = await self._admit(scope, stack)
            except (Unauthenticated, RateLimited) as error:
                self.tell(RequestRefused("http", error.code.value))
                return await error_response(error)(scope, receive, send)
            if key is not None:
                scope.setdefault("state", {})["key_name"] = key.name
                scope["state"]["further_answers"] = lambda num: self._take(key, used, num, stack)

            async def send_and_free(message: Message) -> None:
                if message["type"] == "http.response.body" and not message.get("more_body", False):
                    await stack.aclose()  # a client with the whole answer may send its next request at once
                await send(message)

            await self.app(scope, receive, send_and_free)

    async def _admit(self, scope: Scope, stack: AsyncExitStack) -> tuple[ApiKey | None, Use]:
        key = self.keys.identify(Headers(scope=scope).get("authorization"))
        posts = scope.get("method") == "POST"
        return key, await stack.enter_async_context(self.keys.use(key)) if posts else Use()

    async def _take(self, key: ApiKey, first: Use, num: int, stack: AsyncExitStack) -> None:
        """Count the other ``num`` answers of a request. If they are refused, the first one does not count either."""
        for when, limit in (("per minute", key.requests_per_minute), ("at once", key.max_concurrent)):
            if limit is not None and num + 1 > limit:
                first.begun = False
                raise InvalidRequest(
                    f"the request asks for {num + 1} answers, but the API key {key.name!r} may have {limit} {when}; "
                    "ask for fewer",
                    "n",
                )
        try:
            await stack.enter_async_context(self.keys.use(key, num))
        except RateLimited:
            first.begun = False
            raise


def request_id_of(scope: Scope) -> str:
    """The id that RequestIds assigned."""
    return str(scope["state"]["request_id"])


async def count_answers(scope: Scope, num: int) -> None:
    """Count all ``num`` answers of this request against its key until it ends; RateLimited if they are too many.

    The guard has counted the first one already.
    """
    count = scope["state"].get("further_answers")
    if count is not None and num > 1:
        await count(num - 1)


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(f"{FILES}/")


def path_of(scope: Scope) -> str:
    """The path relative to the application's root."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "")) or "/"


def _incoming(scope: Scope) -> Incoming:
    """The trace that the request belongs to, and its operation in OpenTelemetry's terms."""
    is_chat = "chat" in scope["path"] or scope["path"].endswith("/responses")
    return from_headers(Headers(scope=scope).items(), "chat" if is_chat else "text_completion")


def _log_end(scope: Scope, status: int, seconds: float) -> None:
    if path_of(scope) in QUIET_PATHS and status < 500:
        return
    fields: dict[str, Any] = {
        "method": scope["method"],
        "path": scope["path"][:200],
        "status": status,
        "duration_ms": round(1e3 * seconds, 1),
    }
    if key_name := scope["state"].get("key_name"):
        fields["key"] = key_name
    log.info("request ended", extra={FIELDS: fields})
