"""The HTTP connection: reads a body of bounded length, and notices when the client disconnects."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from adasd.errors import Cancelled, InvalidRequest
from services.gateway.http.carried_body import carried_body
from services.gateway.http.error_table import BodyTooLarge

T = TypeVar("T")

BODY_S = 120.0
"""Time for the body of a request."""


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The body; raises BodyTooLarge as soon as the limit is passed, 415 for a content type other than JSON,
    and 408 if it takes longer than BODY_S.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise HTTPException(415, f"the content type is {media_type[:100]!r}; send application/json")
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip"):
        raise HTTPException(415, f"the content encoding is {encoding[:100]!r}; send gzip or none")
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and len(announced) < 20 and int(announced) > max_bytes:
        raise BodyTooLarge(max_bytes)
    body = carried_body(request.scope)
    if body is None:
        body = await _received(request, max_bytes)
    elif len(body) > max_bytes:
        raise BodyTooLarge(max_bytes)
    return _unzipped(body, max_bytes) if encoding == "gzip" else body


async def _received(request: Request, max_bytes: int) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for part in request.stream():
                body += part
                if len(body) > max_bytes:
                    raise BodyTooLarge(max_bytes)
    except TimeoutError:
        raise HTTPException(408, f"the body was not complete after {BODY_S:g} s; send it faster") from None
    except ClientDisconnect:
        raise Cancelled("the client left before its request was read") from None
    return bytes(body)


def _unzipped(body: bytes, max_bytes: int) -> bytes:
    unzip = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        content = unzip.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise InvalidRequest(f"the body is not gzip, as its content encoding says: {error}") from None
    if len(content) > max_bytes:
        raise BodyTooLarge(max_bytes)
    if not unzip.eof:
        raise InvalidRequest("the body ends before its gzip stream does")
    return content


async def until_disconnect(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Await ``work``; cancel it and raise Cancelled if the client disconnects. The body must be known."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_disconnect(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise Cancelled("the client left")
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
