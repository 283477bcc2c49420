"""Small bodies travel with the head of their request from Serve's proxy to the orchestrator.

Serve hands a replica the head alone. The replica fetches the body by an actor call, which takes 3 ms. Whatever is in
the ASGI scope comes with the head, and only the proxy can put it there. Serve still sends the body as well.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress

from starlette.types import Message, Receive, Scope

KEY = "adasd.body"
"""In the scope of a request: its whole body."""
MAX_BYTES = 256 * 1024
WAIT_S = 0.01
"""A body that is not there by then comes as Serve sends it."""


async def with_body(scope: Scope, receive: Receive) -> tuple[Scope, Receive]:
    """In the proxy: the request with its body, if that is small and has come; and all messages from the first on."""
    messages: deque[Message] = deque()
    with suppress(TimeoutError):
        async with asyncio.timeout(WAIT_S):
            scope = {**scope, **await _whole(receive, messages)}

    async def from_the_first() -> Message:
        return messages.popleft() if messages else await receive()

    return scope, from_the_first


async def _whole(receive: Receive, messages: deque[Message]) -> dict[str, bytes]:
    """The body under its key, unless it is large or the client leaves; what is received goes into ``messages``."""
    body = b""
    while len(body) <= MAX_BYTES:
        messages.append(await receive())
        if messages[-1]["type"] != "http.request":
            break
        body += messages[-1].get("body", b"")
        if len(body) <= MAX_BYTES and not messages[-1].get("more_body", False):
            return {KEY: body}
    return {}


def carried_body(scope: Scope) -> bytes | None:
    """In the orchestrator: the body that came with the head; None if it has to be received."""
    body: bytes | None = scope.get(KEY)
    return body
