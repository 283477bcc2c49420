"""One answer of a running server as it arrives over HTTP: its text, its times, its speculation figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import httpx

from adasd.requests import Mode
from cluster.http_client import ServerRefusal, refusal, server_sent

Clock = Callable[[], float]


@dataclass(frozen=True)
class Streamed:
    """One streamed answer; times in seconds."""

    text: str
    num_tokens: int
    seconds: float  # from sending the request to the end of the stream
    first_token_s: float  # from sending the request
    gaps_s: tuple[float, ...]  # between the chunks of the answer
    num_drafted: int
    num_accepted: int


def stream(
    client: httpx.Client, model: str, prompt: str, mode: Mode | None, max_tokens: int, clock: Clock
) -> Streamed:
    """Send one request and read to the end; raises ServerRefusal if the server refuses or the stream fails.

    ``mode``: None for a server that is not ours.
    """
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if mode is not None:
        body["speculation"] = {"mode": mode.value}
    began_s = clock()
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            response.read()
            raise ServerRefusal(refusal(response))
        return read(server_sent(response.iter_lines()), began_s, clock)


def read(events: Iterable[dict[str, Any]], began_s: float, clock: Clock) -> Streamed:
    """The answer and its times from the stream's objects."""
    text, times_s, last = "", list[float](), dict[str, Any]()
    for event in events:
        if "error" in event:
            raise ServerRefusal(str(event["error"].get("message", event["error"])))
        if event["choices"]:
            times_s.append(clock())
            text += event["choices"][0]["delta"].get("content") or ""
        if event.get("usage"):
            last = event
    ended_s = clock()
    if not times_s or not last:
        raise ServerRefusal("the stream held no answer or no usage")
    drafting = (last.get("metrics") or {}).get("speculative_decoding") or {}
    return Streamed(
        text,
        last["usage"]["completion_tokens"],
        ended_s - began_s,
        times_s[0] - began_s,
        tuple(late - early for early, late in pairwise(times_s)),
        drafting.get("num_draft_tokens", 0),
        drafting.get("num_accepted_draft_tokens", 0),
    )
