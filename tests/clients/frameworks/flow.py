"""What every framework is asked to do, and what it should find."""

from __future__ import annotations

import sys

import pydantic

MODEL, KEY = "fake-model", "none"
QUESTION = "How is the weather in Rome?"
CITY, REPORT, ANSWER = "Rome", "21 degrees", "It has 21 degrees."
TOO_LONG = "cat " * 40_000
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


class Cat(pydantic.BaseModel):
    """A cat."""

    name: str
    lives: int


TOM = Cat(name="Tom", lives=9)


def base_url() -> str:
    """The server's ``/v1``, the flow's only argument."""
    return f"{sys.argv[1]}/v1"
