"""Small bodies that come along with the head of their request."""

from __future__ import annotations

import asyncio
import gzip
import json

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from services.gateway.http.carried_body import KEY, MAX_BYTES, with_body
from services.gateway.http.proxy_front import ProxyFront
from services.gateway.http.routes import GatewaySettings, create_app
from tests.unit.gateway.fake_backend import FakeBackend

CHAT = "/v1/chat/completions"


def received(*messages: Message) -> Receive:
    """These messages, then silence."""
    left = list(messages)

    async def receive() -> Message:
        if not left:
            await asyncio.Event().wait()
        return left.pop(0)

    return receive


def body(content: bytes, more: bool = False) -> Message:
    return {"type": "http.request", "body": content, "more_body": more}


@pytest.mark.parametrize(
    "parts", [[body(b"{}")], [body(b"{", more=True), body(b"}")]], ids=["whole", "in pieces"]
)
async def test_a_body_that_is_there_goes_along_and_still_comes_as_messages(parts: list[Message]):
    scope, receive = await with_body({"path": CHAT}, received(*parts, {"type": "http.disconnect"}))
    assert scope == {"path": CHAT, KEY: b"{}"}
    assert [await receive() for _ in range(len(parts) + 1)] == [*parts, {"type": "http.disconnect"}]


@pytest.mark.parametrize(
    "first",
    [body(b"{", more=True), body(b" " * (MAX_BYTES + 1)), {"type": "http.disconnect"}],
    ids=["the rest is late", "large", "the client left"],
)
async def test_any_other_first_message_comes_as_before(first: Message):
    scope, receive = await with_body({}, received(first))
    assert scope == {}
    assert await receive() == first


async def test_a_slow_client_does_not_hold_its_request_back():
    arrives = asyncio.Event()

    async def receive() -> Message:
        await arrives.wait()
        return body(b"{}")

    scope, still = await with_body({}, receive)
    arrives.set()
    assert scope == {}
    assert await still() == body(b"{}")


class Serve:
    """Hands over the head alone, with what the scope holds: no message of the body ever comes."""

    def __init__(self, limit: int = 10_000) -> None:
        self.app = create_app(FakeBackend(), GatewaySettings(max_body_bytes=limit))

    async def __call__(self, scope: Scope, _: Receive, send: Send) -> None:
        await self.app(scope, received(), send)


async def post(content: bytes, limit: int = 10_000, **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(ProxyFront(Serve(limit)))
    async with httpx.AsyncClient(transport=transport, base_url="http://adasd") as client:
        return await client.post(
            CHAT, content=content, headers={"content-type": "application/json", **headers}
        )


def question(model: str) -> bytes:
    return json.dumps({"model": model, "messages": [{"role": "user", "content": "Hi"}]}).encode()


async def test_the_orchestrator_answers_before_the_body_comes():
    asked = question(FakeBackend().model_name)
    assert (await post(asked)).status_code == 200
    zipped = await post(gzip.compress(asked), **{"content-encoding": "gzip"})
    assert zipped.status_code == 200


async def test_a_carried_body_has_the_same_limit():
    answer = await post(question(FakeBackend().model_name) + b" " * 5_000, limit=4_000)
    assert answer.status_code == 413
