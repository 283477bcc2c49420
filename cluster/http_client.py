"""Helpers for clients of the HTTP server: the model's name, the stream's events, the message of a refusal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx


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
    """The JSON objects of a stream of server-sent events, until ``[DONE]``."""
    for line in lines:
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            return
        yield json.loads(data)


def refusal(response: httpx.Response) -> str:
    """The server's own error message."""
    if response.status_code == 401:
        return "The server asks for an API key that it knows: adasd chat --api-key KEY, or ADASD_API_KEY"
    try:
        return f"The server refused ({response.status_code}): {response.json()['error']['message']}"
    except (ValueError, LookupError, TypeError):
        return f"The server refused ({response.status_code}): {response.text[:200]}"
