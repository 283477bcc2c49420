"""Clients of the service: streamed requests with known answers, and the outcome of each."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from load_tests.demo_prompts import examples

SEND_AGAIN = "send the request again"
MOST_RETRIES = 10


@dataclass(slots=True)
class RequestOutcome:
    """One request: its text, or the reason why there is none; times in seconds."""

    key: int
    text: str | None
    error: str | None
    first_s: float | None
    total_s: float
    began_s: float
    longest_pause_s: float = 0.0  # between two chunks
    num_retries: int = 0  # as its error event or status said

    @property
    def is_to_be_sent_again(self) -> bool:
        """Whether the service said so (services.gateway.http.proxy_front); a connection that just breaks does not."""
        return self.error is not None and SEND_AGAIN in self.error


@dataclass(frozen=True, slots=True)
class Work:
    """The requests: each key has one body, which is sent repeatedly."""

    bodies: tuple[dict[str, Any], ...]


def work(num_distinct: int, max_tokens: int) -> Work:
    """Greedy and seeded requests in turn, in mode exact."""
    bodies = []
    for number, example in enumerate(examples(num_distinct)):
        sampling = {"temperature": 0} if number % 2 else {"temperature": 0.8, "seed": 1000 + number}
        bodies.append(
            {
                "messages": [{"role": "user", "content": example.prompt}],
                "max_tokens": max_tokens,
                "stream": True,
                "speculation": {"mode": "exact"},
                **sampling,
            }
        )
    return Work(tuple(bodies))


async def ask(
    client: httpx.AsyncClient, url: str, key: int, body: dict[str, Any], zero_s: float
) -> RequestOutcome:
    """One streamed answer. Errors are recorded in the outcome."""
    began_s = newest_s = time.monotonic()
    first_s, text, pause_s, done = None, "", 0.0, False
    error: str | None = None
    try:
        async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
            if response.status_code != 200:
                error = f"{response.status_code}: {(await response.aread()).decode()[:300]}"
            async for line in response.aiter_lines():
                done = done or line == "data: [DONE]"
                if error or not line.startswith("data: {"):
                    continue
                event, now_s = json.loads(line[6:]), time.monotonic()
                if "error" in event:
                    error = json.dumps(event["error"])
                for choice in event.get("choices", ()):
                    if first_s is None:
                        first_s = now_s - began_s
                    else:
                        pause_s = max(pause_s, now_s - newest_s)
                    newest_s = now_s
                    text += choice["delta"].get("content") or ""
        if not done:
            error = error or "the stream ended without [DONE]"
    except httpx.HTTPError as problem:
        error = f"{type(problem).__name__}: {problem}"
    total_s = time.monotonic() - began_s
    return RequestOutcome(key, None if error else text, error, first_s, total_s, began_s - zero_s, pause_s)


async def ask_again(
    client: httpx.AsyncClient, url: str, key: int, body: dict[str, Any], zero_s: float
) -> RequestOutcome:
    """As ``ask``; sends the request again when told so, a second later, as clients do."""
    for num_retries in range(MOST_RETRIES):
        outcome = await ask(client, url, key, body, zero_s)
        outcome.num_retries = num_retries
        if not outcome.is_to_be_sent_again:
            break
        await asyncio.sleep(1.0)
    return outcome


async def closed_loop(
    url: str,
    todo: Work,
    concurrency: int,
    enough: Callable[[Sequence[RequestOutcome]], bool],
    zero_s: float | None = None,
) -> list[RequestOutcome]:
    """``concurrency`` clients send one request after another until the outcomes are ``enough``."""
    outcomes: list[RequestOutcome] = []
    zero_s = time.monotonic() if zero_s is None else zero_s
    keys = itertools.cycle(range(len(todo.bodies)))
    limits = httpx.Limits(max_connections=concurrency)
    async with httpx.AsyncClient(timeout=httpx.Timeout(180.0), limits=limits) as client:

        async def one_client() -> None:
            while not enough(outcomes):
                key = next(keys)
                outcomes.append(await ask_again(client, url, key, todo.bodies[key], zero_s))

        await asyncio.gather(*(one_client() for _ in range(concurrency)))
    return outcomes


def differing(outcomes: Sequence[RequestOutcome]) -> list[int]:
    """Requests that received more than one answer."""
    texts: defaultdict[int, set[str]] = defaultdict(set)
    for outcome in outcomes:
        if outcome.text is not None:
            texts[outcome.key].add(outcome.text)
    return sorted(key for key, given in texts.items() if len(given) > 1)
