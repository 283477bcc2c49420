"""In front of Serve's queue: refusals for a full service, and an end for responses whose replica died."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn.config
from starlette.types import Message, Receive, Scope, Send

from services.gateway.http import proxy_front
from services.gateway.http.error_table import FULL_HEADER
from services.gateway.http.proxy_front import (
    ALIVE_FOR_S,
    FULL_FOR_S,
    PROBE_EVERY_S,
    REFUSED_HEADER,
    ProxyCounts,
    ProxyFront,
    middlewares,
)
from services.observability.service_events import RequestRefused

CHAT = "/v1/chat/completions"
PIECE = b'data: {"choices":[]}\n\n'
SSE = [(b"content-type", b"text/event-stream; charset=utf-8")]
JSON = [(b"content-type", b"application/json"), (b"content-length", b"2")]
TEXT = [(b"content-type", b"text/plain")]
FULL = (FULL_HEADER.lower().encode(), b"1")


def start(status: int, headers: list[tuple[bytes, bytes]]) -> Message:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def piece(body: bytes, last: bool = False) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": not last}


@dataclass
class Replica:
    """An ASGI app that sends these messages, then returns, as Serve's proxy does when the replica died.

    It is healthy; ``scopes`` has the other requests.
    """

    messages: list[Message] = field(default_factory=list)
    scopes: list[Scope] = field(default_factory=list)
    waits_for_client: bool = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("path") == "/health":
            await send(start(200, JSON))
            return await send(piece(b"{}", last=True))
        self.scopes.append(scope)
        for message in self.messages:
            await send({**message, "headers": list(message["headers"])} if "headers" in message else message)
        if self.waits_for_client:
            while (await receive())["type"] != "http.disconnect":
                pass


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    is_whole: bool

    @property
    def events(self) -> list[Any]:
        texts = [line.removeprefix("data: ") for line in self.body.decode().splitlines() if "data: " in line]
        return [text if text == "[DONE]" else json.loads(text) for text in texts]


async def ask(front: Callable[..., Any], path: str = CHAT, method: str = "POST", **headers: str) -> Answer:
    sent: list[Message] = []
    pairs = [(name.replace("_", "-").lower().encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": pairs}

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await front(scope, receive, send)
    told = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]} if sent else {}
    body = b"".join(message.get("body", b"") for message in sent)
    is_whole = bool(sent) and not sent[-1].get("more_body", False) and "body" in sent[-1]
    return Answer(sent[0]["status"] if sent else 0, told, body, is_whole)


def front(replica: Replica, now_s: list[float] | None = None) -> ProxyFront:
    return ProxyFront(replica, (lambda: now_s[0]) if now_s is not None else lambda: 1.0)


async def test_a_whole_response_passes_unchanged():
    replica = Replica([start(200, SSE), piece(PIECE), piece(b"data: [DONE]\n\n", last=True)])
    answer = await ask(front(replica))
    assert answer.body == PIECE + b"data: [DONE]\n\n"
    assert (answer.status, answer.is_whole) == (200, True)


async def test_until_an_orchestrator_has_answered_requests_are_told_to_come_again(monkeypatch):
    """At first Serve knows no application, then it holds requests until there is a replica."""
    monkeypatch.setattr(proxy_front, "FIRST_ANSWER_S", 0.01)
    is_known, is_up, replica = False, asyncio.Event(), Replica([start(200, JSON), piece(b"{}", last=True)])
    num_held = 0

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal num_held
        if not is_known:
            return await Replica([start(404, TEXT), piece(b"not found", last=True)])(
                {**scope, "path": ""}, receive, send
            )
        if not is_up.is_set():
            num_held += 1
        await is_up.wait()
        await replica(scope, receive, send)

    its = ProxyFront(serve)
    for path, method in ((CHAT, "POST"), ("/ready", "GET"), ("/v1/models", "GET")):
        answer = await ask(its, path, method)
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        error = json.loads(answer.body)["error"]
        assert error["code"] == "unavailable"
        assert "starting" in error["message"]
        assert "send the request again" in error["message"]
    is_known = True
    assert [(await ask(its)).status for _ in range(3)] == [503] * 3
    assert num_held == 1  # a question of the proxy's own; no request of a client waits
    is_up.set()
    assert (await ask(its)).status == 200
    assert [scope["path"] for scope in replica.scopes] == [CHAT]


async def test_a_request_waits_for_the_first_answer_of_an_orchestrator_that_runs():
    replica = Replica([start(200, JSON), piece(b"{}", last=True)])

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.01)
        await replica(scope, receive, send)

    assert [(await ask(its)).status for its in [ProxyFront(serve)] for _ in range(2)] == [200, 200]


async def test_serves_own_paths_are_answered_before_the_service_is():
    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != "/-/healthz":
            await asyncio.Event().wait()
        await send(start(503, TEXT))
        await send(piece(b"no routes yet", last=True))

    answer = await ask(ProxyFront(serve), "/-/healthz", "GET")
    assert (answer.status, answer.body) == (503, b"no routes yet")


@pytest.mark.parametrize("status", [404, 503])
async def test_serves_own_refusals_become_openais(status: int):
    """An application that was removed, a queue of Serve's that is full."""
    answer = await ask(front(Replica([start(status, TEXT), piece(b"Path not found. Ping", last=True)])))
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert json.loads(answer.body)["error"]["code"] == "unavailable"


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", f"{CHAT}/"])
async def test_a_stream_that_breaks_ends_with_an_error_that_says_what_to_do(path: str):
    answer = await ask(front(Replica([start(200, SSE), piece(PIECE)])), path)
    *_, error, end = answer.events
    assert answer.is_whole
    assert end == "[DONE]"
    assert error["error"]["code"] == "worker_lost"
    assert "send the request again" in error["error"]["message"]


async def test_a_broken_stream_of_the_responses_api_ends_in_its_own_form():
    answer = await ask(front(Replica([start(200, SSE), piece(PIECE * 3), piece(PIECE)])), "/v1/responses")
    assert b"event: error\n" in answer.body
    assert answer.events[-1]["type"] == "error"
    assert answer.events[-1]["sequence_number"] == 4


async def test_a_request_without_any_response_may_be_sent_again():
    answer = await ask(front(Replica()))
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert "send the request again" in json.loads(answer.body)["error"]["message"]


async def test_a_broken_response_with_a_length_stays_broken():
    answer = await ask(front(Replica([start(200, JSON)])), "/v1/models", "GET")
    assert (answer.body, answer.is_whole) == (b"", False)


async def test_nothing_is_said_to_a_client_that_left():
    answer = await ask(front(Replica([start(200, SSE), piece(PIECE)], waits_for_client=True)))
    assert (answer.body, answer.is_whole) == (PIECE, False)


async def test_after_a_full_service_refused_the_proxy_refuses_by_itself_for_a_moment():
    now_s = [5.0]
    replica = Replica([start(429, [*JSON, FULL]), piece(b"{}", last=True)])
    its = front(replica, now_s)
    first = await ask(its)
    assert (first.status, FULL_HEADER.lower() in first.headers) == (429, False)
    second = await ask(its)
    assert (second.status, second.headers["retry-after"], len(replica.scopes)) == (429, "1", 1)
    assert json.loads(second.body)["error"]["code"] == "overloaded"
    await ask(its, "/v1/models", "GET")
    await ask(its, "/tokenize")
    assert len(replica.scopes) == 3
    now_s[0] += PROBE_EVERY_S
    await ask(its)
    await ask(its)
    assert len(replica.scopes) == 4  # one probe, which was refused
    now_s[0] += FULL_FOR_S
    await ask(its)
    assert len(replica.scopes) == 5


async def test_the_first_accepted_request_opens_the_door_again():
    now_s = [5.0]
    full, accepted = (
        [start(429, [*JSON, FULL]), piece(b"{}", last=True)],
        [start(200, SSE), piece(b"data: [DONE]\n\n", last=True)],
    )
    replica = Replica(full)
    its = front(replica, now_s)
    await ask(its)
    replica.messages = accepted
    assert (await ask(its)).status == 429
    assert (await ask(its, "/v1/models", "GET")).status == 200  # says nothing about slots
    assert (await ask(its)).status == 429
    now_s[0] += PROBE_EVERY_S
    assert [(await ask(its)).status for _ in range(3)] == [200, 200, 200]


async def test_who_was_accepted_before_a_refusal_opens_no_door():
    """An answer's response begins with its first token, seconds after it was accepted."""
    now_s, first_token = [5.0], asyncio.Event()
    whole = [start(200, SSE), piece(b"data: [DONE]\n\n", last=True)]
    refused = [start(429, [*JSON, FULL]), piece(b"{}", last=True)]

    async def replicas(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/health":
            return await Replica()(scope, receive, send)
        if (b"x-slow", b"1") in scope["headers"]:
            await first_token.wait()
            return await Replica(whole)(scope, receive, send)
        await Replica(refused)(scope, receive, send)

    its = ProxyFront(replicas, lambda: now_s[0])
    await ask(its, "/health", "GET")
    slow = asyncio.create_task(ask(its, x_slow="1"))
    await asyncio.sleep(0)
    now_s[0] += 0.01
    assert (await ask(its)).status == 429
    first_token.set()
    assert (await slow).status == 200
    assert "every slot" in json.loads((await ask(its)).body)["error"]["message"]


async def test_a_refusal_that_concerns_one_key_says_nothing_about_others():
    replica = Replica([start(429, JSON), piece(b"{}", last=True)])
    its = front(replica)
    await ask(its)
    await ask(its)
    assert len(replica.scopes) == 2


async def test_refusals_of_the_proxy_are_counted_by_the_orchestrator():
    told: list[Any] = []
    replica = Replica([start(429, [*JSON, FULL]), piece(b"{}", last=True)])
    its = front(ProxyCounts(replica, told.append))  # type: ignore[arg-type]
    for _ in range(4):
        await ask(its)
    assert told == []
    await ask(its, "/metrics", "GET")
    await ask(its, "/metrics", "GET")
    assert told == [RequestRefused("http", "overloaded", 3)]


async def test_a_client_cannot_count_refusals():
    told: list[Any] = []
    await ask(front(ProxyCounts(Replica(), told.append)), **{REFUSED_HEADER: "7"})  # type: ignore[arg-type]
    assert told == []


BY_THE_PROXY, BY_THE_REPLICA = b'{"status":"ok"}', b"{}"


@pytest.mark.parametrize(
    "answered", [[start(200, JSON), piece(b"{}", last=True)], [start(200, SSE), piece(PIECE)]]
)
async def test_while_an_orchestrator_answers_health_does_not_wait_for_it(answered: list[Message]):
    now_s = [5.0]
    its = front(Replica(answered), now_s)
    await ask(its)
    now_s[0] += 0.9 * ALIVE_FOR_S
    alive = await ask(its, "/health", "GET")
    assert (alive.status, alive.body) == (200, BY_THE_PROXY)
    now_s[0] += 0.2 * ALIVE_FOR_S
    assert (await ask(its, "/health", "GET")).body == BY_THE_REPLICA


@pytest.mark.parametrize("status", [404, 429, 500, 503])
async def test_an_error_shows_no_orchestrator_that_is_alive(status: int):
    """Serve itself answers 404, 500 and 503."""
    its = front(Replica([start(status, JSON), piece(b"{}", last=True)]))
    await ask(its)
    assert (await ask(its, "/health", "GET")).body == BY_THE_REPLICA


async def test_serves_own_answers_show_no_orchestrator():
    its = front(Replica([start(200, JSON), piece(b"{}", last=True)]))
    await ask(its, "/-/healthz", "GET")
    assert (await ask(its, "/health", "GET")).body == BY_THE_REPLICA


async def test_what_is_no_request_passes():
    replica = Replica()
    await front(replica)({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
    assert replica.scopes == [{"type": "lifespan"}]


def test_serve_is_given_the_front(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(uvicorn.config.HTTP_PROTOCOLS, "auto", "")  # what it installs stays within this test
    assert [one.cls for one in middlewares()] == [ProxyFront]
