"""Clients of the service's two interfaces: server-sent events over HTTP, a stream over gRPC.

A client sends one request and records the time of each chunk and the outcome. It raises only when it is cancelled, so
that a run has an answer for every request.
"""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from contextlib import aclosing
from itertools import cycle
from typing import Any, Protocol

import aiohttp

from adasd.errors import AdasdError, Code, InvalidRequest, Overloaded, UnknownModel
from adasd.requests import SamplingParams, SpeculationOptions
from adasd.results import Chunk
from cluster.http_client import PROXY
from load_tests.load.answers import Ask, Outcome, Reply
from services.transport.generation import GenerationClient
from services.transport.generation_messages import ChatMessage, GenerateCall
from services.transport.poller import take_all_events

Clock = Callable[[], float]
TIMEOUT_S = 120.0
"""Longest silence of a stream, or wait for a connection, before the request counts as failed."""


NUM_CONNECTIONS = 16
"""Of the gRPC client. HTTP takes one per request."""


class Door(Protocol):
    """A client of one interface."""

    async def ask(self, ask: Ask, answer: Reply) -> None:
        """Fill in ``answer`` as events happen; its outcome at the end."""
        ...

    async def close(self) -> None: ...


def body_of(ask: Ask) -> dict[str, Any]:
    """The chat request that HTTP clients send."""
    body: dict[str, Any] = {
        "messages": [{"role": role, "content": content} for role, content in ask.messages],
        "max_tokens": ask.max_tokens,
        "temperature": ask.temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if ask.seed is not None:
        body["seed"] = ask.seed
    if ask.mode is not None:
        body["speculation"] = {"mode": ask.mode.value}
    return body


class HttpClient:
    """``POST /v1/chat/completions``, streamed. Belongs to the running event loop; close it at the end."""

    def __init__(self, url: str, api_key: str | None, now: Clock) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        timeout = aiohttp.ClientTimeout(total=None, connect=TIMEOUT_S, sock_read=TIMEOUT_S)
        connector = aiohttp.TCPConnector(limit=0)  # arrivals set the concurrency, not connections
        self._session = aiohttp.ClientSession(headers=headers, timeout=timeout, connector=connector)
        self._url, self._now = url, now

    async def ask(self, ask: Ask, answer: Reply) -> None:
        data = ask.raw if ask.raw is not None else json.dumps(body_of(ask)).encode()
        try:
            async with self._session.post(
                self._url + ask.path, data=io.BytesIO(data), headers={"Content-Type": "application/json"}
            ) as response:
                if response.status == 200 and ask.may_be_valid:
                    await response.read()
                    answer.outcome = Outcome.DONE
                elif response.status == 200:
                    await self._read(response, ask, answer)
                else:
                    refused(answer, response.status, (await response.read())[:4000].decode(errors="replace"))
        except (aiohttp.ClientError, TimeoutError, ValueError, LookupError, TypeError) as error:
            answer.outcome, answer.error = (
                Outcome.FAILED,
                f"the connection broke: {type(error).__name__}: {error}",
            )
        answer.ended_s = self._now()

    async def _read(self, response: aiohttp.ClientResponse, ask: Ask, answer: Reply) -> None:
        """Read chunks until ``[DONE]``; a stream that ends without it has failed."""
        async for line in response.content:
            if not line.startswith(b"data: "):
                continue
            if line.startswith(b"data: [DONE]"):
                answer.outcome = Outcome.DONE
                return
            event = json.loads(line[6:])
            if "error" in event:
                answer.outcome, answer.error = Outcome.FAILED, str(event["error"].get("message"))[:300]
                return
            self._take(event, answer)
            if ask.leave_after_chunks is not None and len(answer.chunks_s) >= ask.leave_after_chunks:
                answer.outcome = Outcome.LEFT
                response.close()  # like a browser, which just closes the connection
                return
            if ask.pause_s:
                await asyncio.sleep(ask.pause_s)
        answer.outcome, answer.error = Outcome.FAILED, "the stream ended without [DONE]"

    def _take(self, event: dict[str, Any], answer: Reply) -> None:
        if event["choices"]:
            answer.chunks_s.append(self._now())
            answer.text += event["choices"][0]["delta"].get("content") or ""
        if usage := event.get("usage"):
            answer.num_tokens = usage["completion_tokens"]
            drafting = (event.get("metrics") or {}).get("speculative_decoding") or {}
            answer.num_drafted = drafting.get("num_draft_tokens", 0)
            answer.num_accepted = drafting.get("num_accepted_draft_tokens", 0)

    async def close(self) -> None:
        await self._session.close()


class GrpcClient:
    """``adasd.v1.Generation/Generate``, from several connections in turn, as from several applications.

    Belongs to the running event loop; close it at the end.
    """

    def __init__(self, address: str, api_key: str | None, now: Clock) -> None:
        take_all_events()
        self._clients = [GenerationClient(address, api_key) for _ in range(NUM_CONNECTIONS)]
        self._turns, self._now = cycle(self._clients), now

    async def ask(self, ask: Ask, answer: Reply) -> None:
        try:
            await self._read(ask, answer)
        except (InvalidRequest, UnknownModel) as error:
            answer.outcome, answer.error = Outcome.REFUSED, str(error)
        except Overloaded as error:
            answer.outcome, answer.error = Outcome.OVERLOADED, str(error)
        except (AdasdError, TimeoutError, ValueError, LookupError, TypeError) as error:
            answer.outcome, answer.error = Outcome.FAILED, f"{type(error).__name__}: {error}"
        answer.ended_s = self._now()

    async def _read(self, ask: Ask, answer: Reply) -> None:
        call = call_of(ask) if ask.raw is None else ask.raw
        async with aclosing(next(self._turns).generate(call)) as events:
            async for event in events:
                if isinstance(event, Chunk):
                    answer.chunks_s.append(self._now())
                    answer.text += event.text
                else:
                    answer.num_tokens = event.usage.completion_tokens
                    answer.num_drafted = event.speculation.num_draft_tokens
                    answer.num_accepted = event.speculation.num_accepted_tokens
                    answer.outcome = Outcome.DONE
                if ask.leave_after_chunks is not None and len(answer.chunks_s) >= ask.leave_after_chunks:
                    answer.outcome = Outcome.LEFT
                    return
                if ask.pause_s:
                    await asyncio.sleep(ask.pause_s)
        if answer.outcome is not Outcome.DONE:
            answer.outcome, answer.error = Outcome.FAILED, "the stream ended without its last message"

    async def close(self) -> None:
        await asyncio.gather(*(client.close() for client in self._clients))


def refused(answer: Reply, status: int, text: str) -> None:
    """Records an HTTP error: expected if the request was wrong and the server says so."""
    answer.error = in_words(status, text)
    if status == 429:
        answer.outcome = Outcome.OVERLOADED
    else:
        answer.outcome = Outcome.REFUSED if 400 <= status < 500 else Outcome.FAILED


def in_words(status: int, text: str) -> str:
    """What an HTTP error says: the server's own sentence where the body has one."""
    try:
        error = json.loads(text)["error"]
        what = "the context is full" if error.get("code") == Code.CONTEXT_TOO_LONG else f"refused ({status})"
        return f"{what}: {error['message']}"
    except (ValueError, LookupError, TypeError, AttributeError):
        return f"a proxy answers for the server ({status})" if status in PROXY else f"{status}: {text[:200]}"


def call_of(ask: Ask) -> GenerateCall:
    """The same request over gRPC."""
    return GenerateCall(
        tuple(ChatMessage(role, content) for role, content in ask.messages),
        sampling=SamplingParams(max_tokens=ask.max_tokens, temperature=ask.temperature, seed=ask.seed),
        speculation=SpeculationOptions(mode=ask.mode),
    )
