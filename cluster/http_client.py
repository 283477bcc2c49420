"""Helpers for clients of the HTTP server: the model's name, the stream's events, the message of a refusal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx

from adasd.errors import Code

PROXY = (502, 503, 504)
"""Statuses of a proxy whose server is down or slow; our own answers with them hold JSON."""


class ServerRefusal(Exception):
    """A message for the user: the server refused the request, or is not an AdaSD server."""


def first_model(client: httpx.Client) -> str:
    response = client.get("/v1/models")
    if response.status_code != 200:
        raise ServerRefusal(refusal(response))
    try:
        return str(response.json()["data"][0]["id"])
    except (ValueError, LookupError, TypeError):
        raise ServerRefusal(
            f"{client.base_url} is no OpenAI-compatible server: /v1/models lists nothing"
        ) from None


def server_sent(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The JSON objects of a stream of server-sent events, until ``[DONE]``; httpx.HTTPError if that never comes."""
    for line in lines:
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            return
        yield json.loads(data)
    raise httpx.RemoteProtocolError("the stream ended before the answer did")


def refusal(response: httpx.Response) -> str:
    """The server's own error message."""
    if response.status_code == 401:
        return "The server asks for an API key that it knows: adasd chat --api-key KEY, or ADASD_API_KEY"
    try:
        error = response.json()["error"]
        if error.get("code") == Code.CONTEXT_TOO_LONG:
            return f"The context is full: {error['message']}"
        return f"The server refused ({response.status_code}): {error['message']}"
    except (ValueError, LookupError, TypeError):
        if response.status_code in PROXY:
            return f"A proxy in front of the server answers for it ({response.status_code} {response.reason_phrase})"
        return f"The server refused ({response.status_code}): {response.text[:200]}"
