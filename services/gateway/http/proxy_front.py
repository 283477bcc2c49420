"""What runs in Serve's HTTP proxies, in front of their queue: plain ASGI, no state shared with other processes.

Serve calls ``middlewares`` where RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names it (cluster.runtime.ray_cluster).

* A full orchestrator says so in its refusal (FULL_HEADER). For FULL_FOR_S after that the proxy refuses requests for
  answers by itself, which costs a tenth of the way to the orchestrator and back. One per PROBE_EVERY_S still passes,
  and the first that is accepted opens the door again.
* While an orchestrator shows that it is alive, by whatever it answers, the proxy answers GET /health by itself: a busy
  orchestrator is no dead one.
* Nobody but the proxy outlives an orchestrator that dies. It ends the streams that ran there with an error event, and
  answers requests that had no answer yet with 503. Serve alone would cut the one and answer 500 to the other.
* The proxy listens before any orchestrator does. Until one has answered GET /health, requests get 503. Serve alone
  would answer 404 while it knows no application, and let requests wait without a limit while no replica is up.
* The bodies of requests for answers go along with their heads (carried_body).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adasd.errors import AdasdError, Code, Overloaded
from adasd.ports import Clock
from services.gateway.http import patience
from services.gateway.http.carried_body import with_body
from services.gateway.http.error_table import FULL_HEADER, error_body, error_response
from services.gateway.http.event_stream import frame
from services.observability.service_events import Observer, RequestRefused
from services.transport.poller import take_all_events

log = logging.getLogger(__name__)

FULL_FOR_S = 0.5
"""How long a refusal speaks for the whole service; slots that become free meanwhile have the queue."""
PROBE_EVERY_S = 0.05
FIRST_ANSWER_S = 1.0
"""How long requests wait for the first answer of an orchestrator. One that runs already needs milliseconds."""
ALIVE_FOR_S = 1.0
"""How long an answer, or a piece of one, shows that its orchestrator is alive."""
NEVER = float("-inf")
REFUSED_HEADER = "X-Adasd-Refused"
"""On a request: how many the proxy has refused since the one before. The orchestrator counts them in its metrics."""
SERVES_OWN = "/-/"
"""Paths that Serve's proxy answers by itself, such as its health."""
SERVES_REFUSALS = (404, 503)
"""With a text: Serve knows no application, or holds too many requests. Orchestrators write such errors as JSON."""
RESPONSES = "/v1/responses"
HEALTH, ALIVE = "/health", {"status": "ok"}
ANSWERS = frozenset({"/v1/chat/completions", "/v1/completions", RESPONSES})
END = "data: [DONE]\n\n"


class OrchestratorLost(AdasdError):
    """The orchestrator that ran the request died; another one, or its successor, takes the request again."""

    code = Code.WORKER_LOST

    def __str__(self) -> str:
        return "the orchestrator replica of this request died or was cut off; send the request again"


class Unavailable(AdasdError):
    """No orchestrator takes the request now; ``why`` in a sentence."""

    code = Code.UNAVAILABLE

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why

    def __str__(self) -> str:
        return self.why


def middlewares() -> list[Middleware]:
    """What Serve puts around every request to its HTTP proxies. Connections get their limits, too."""
    take_all_events()
    patience.install()
    return [Middleware(ProxyFront)]


class ProxyFront:
    """One per proxy process."""

    def __init__(self, app: ASGIApp, clock: Clock = time.monotonic) -> None:
        self._app, self._clock = app, clock
        self._refused_at_s = NEVER  # the newest refusal of a full orchestrator
        self._next_probe_s = 0.0
        self._num_refused = 0  # since the last request that was passed on
        self._first_answer = _FirstAnswer(app)
        self._heard_at_s = NEVER  # the newest sign of life of an orchestrator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(SERVES_OWN):
            return await self._app(scope, receive, send)
        if not await self._first_answer.came(scope):
            return await error_response(Unavailable("the service is starting"))(scope, receive, send)
        wants_answer = scope["method"] == "POST" and scope["path"].rstrip("/") in ANSWERS
        sent_s = self._clock()
        if (scope["method"], scope["path"]) == ("GET", HEALTH) and sent_s < self._heard_at_s + ALIVE_FOR_S:
            return await JSONResponse(ALIVE)(scope, receive, send)
        if wants_answer and self._is_shut(sent_s):
            self._num_refused += 1
            return await error_response(Overloaded("every slot and every place in the queue is taken"))(
                scope, receive, send
            )
        if wants_answer:
            scope, receive = await with_body(scope, receive)
        response = _Response(
            send, lambda status, is_full: self._learn(status, is_full, sent_s, wants_answer), self._hear
        )
        has_left = False

        async def receive_too() -> Message:
            nonlocal has_left
            message = await receive()
            has_left |= message["type"] == "http.disconnect"
            return message

        await self._app(self._with_count(scope), receive_too, response.send)
        if not response.is_whole and not has_left:
            log.warning(
                "a replica did not finish its response to %s %s", scope["method"], scope["path"][:200]
            )
            await response.end(scope, receive)

    def _hear(self) -> None:
        self._heard_at_s = self._clock()

    def _is_shut(self, now_s: float) -> bool:
        if now_s >= self._refused_at_s + FULL_FOR_S:
            return False
        if now_s < self._next_probe_s:
            return True
        self._next_probe_s = now_s + PROBE_EVERY_S
        return False

    def _learn(self, status: int, is_full: bool, sent_s: float, wants_answer: bool) -> None:
        """From the beginning of a response to a request that was passed on at ``sent_s``."""
        if is_full:
            self._refused_at_s = self._clock()
            self._next_probe_s = self._refused_at_s + PROBE_EVERY_S
        elif wants_answer and status == 200 and sent_s >= self._refused_at_s:
            self._refused_at_s = NEVER

    def _with_count(self, scope: Scope) -> Scope:
        """The request with the refusals since the last one; a client's own such header is dropped."""
        name = REFUSED_HEADER.lower().encode()
        headers = [pair for pair in scope["headers"] if pair[0] != name]
        if self._num_refused:
            headers.append((name, b"%d" % self._num_refused))
            self._num_refused = 0
        return {**scope, "headers": headers}


class _FirstAnswer:
    """Whether an orchestrator has ever answered through this proxy. Asks as long as none has, one request at a time."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._has_come = False
        self._question: asyncio.Task[None] | None = None

    async def came(self, scope: Scope) -> bool:
        """Waits FIRST_ANSWER_S at most; ``scope`` is that of the request for which it is asked."""
        if self._has_come:
            return True
        if self._question is None or self._question.done():
            self._question = asyncio.create_task(self._ask(scope))
        await asyncio.wait({self._question}, timeout=FIRST_ANSWER_S)
        return self._has_come

    async def _ask(self, scope: Scope) -> None:
        """GET /health; Serve holds it until there is a replica."""
        path = {"path": HEALTH, "raw_path": HEALTH.encode(), "query_string": b""}
        body: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive() -> Message:
            return body.pop() if body else await asyncio.Future()

        async def send(message: Message) -> None:
            self._has_come |= message.get("status") == 200

        await self._app({**scope, **path, "method": "GET", "headers": []}, receive, send)


class _Response:
    """One response on its way to the client."""

    def __init__(
        self, send: Send, on_start: Callable[[int, bool], None], on_success: Callable[[], None]
    ) -> None:
        """``on_start`` is told the status, and whether the orchestrator said that it is full.

        ``on_success`` is called with every message of a response with status 200.
        """
        self._send, self._on_start, self._on_success = send, on_start, on_success
        self._status = 0
        self._is_stream = self.has_begun = self.is_whole = self._is_serves_own = False
        self._num_frames = 0

    async def send(self, message: Message) -> None:
        if self._is_serves_own:
            return
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            if message["status"] in SERVES_REFUSALS and headers.get("content-type", "").startswith(
                "text/plain"
            ):
                self._is_serves_own = True
                return
            self.has_begun, self._status = True, message["status"]
            self._is_stream = headers.get("content-type", "").startswith("text/event-stream")
            is_full = headers.get(FULL_HEADER) is not None
            if is_full:
                del headers[FULL_HEADER]
            self._on_start(message["status"], is_full)
        elif message["type"] == "http.response.body":
            self.is_whole = not message.get("more_body", False)
            self._num_frames += message.get("body", b"").count(b"\n\n")
        if self._status == 200:
            self._on_success()
        await self._send(message)

    async def end(self, scope: Scope, receive: Receive) -> None:
        """Say what happened, if that is still possible: a response with a length is left to break."""
        lost = OrchestratorLost()
        if self._is_serves_own:
            await error_response(Unavailable("no orchestrator takes requests now"))(
                scope, receive, self._send
            )
        elif not self.has_begun:
            await error_response(lost)(scope, receive, self._send)
        elif self._is_stream:
            body = self._last_event(scope, lost).encode("ascii")
            await self._send({"type": "http.response.body", "body": body, "more_body": False})

    def _last_event(self, scope: Scope, error: AdasdError) -> str:
        told = error_body(error)
        if scope["path"].rstrip("/") != RESPONSES:
            return frame(told) + END
        of_api = {"type": "error", "code": told["error"]["code"], "message": told["error"]["message"]}
        return frame({**of_api, "param": None, "sequence_number": self._num_frames}, "error")


class ProxyCounts:
    """In the orchestrator: tells of the refusals that a proxy counted on a request."""

    def __init__(self, app: ASGIApp, tell: Observer) -> None:
        self._app, self._tell = app, tell

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        text = Headers(scope=scope).get(REFUSED_HEADER, "") if scope["type"] == "http" else ""
        if text.isdecimal() and len(text) < 7:
            self._tell(RequestRefused("http", Code.OVERLOADED.value, int(text)))
        await self._app(scope, receive, send)
