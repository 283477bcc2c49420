"""Damaged requests without end: valid ones of every route, with one to three faults that the seed fixes.

A damaged request may be valid by chance. What has to hold for each: it gets an answer, and never a server's fault.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

from adasd.requests import Mode, SamplingParams, SpeculationOptions
from load_tests.load.answers import Ask
from services.transport.generation_codec import call_to_wire
from services.transport.generation_messages import GenerateCall

GRPC_EVERY = 4
"""One request in so many goes over gRPC."""

MOST_FAULTS = 3
BYTES_SHARE = 0.25
"""Share of bodies that are damaged as bytes rather than as values."""

_PLACE = {
    "type": "object",
    "properties": {"place": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["place"],
}
_USER = {"role": "user", "content": "Give me linear in Python: it takes a number by 19 and adds 15."}
_SPECULATION = {
    "mode": "adaptive",
    "drafting": "adasd",
    "acceptance": "collision",
    "draft": "model",
    "max_relaxed_fraction": 0.2,
    "max_distortion": 0.1,
}
BODIES: tuple[tuple[str, dict[str, Any]], ...] = (
    (
        "/v1/chat/completions",
        {
            "messages": [{"role": "system", "content": "Be brief."}, _USER],
            "max_tokens": 3,
            "temperature": 0.7,
            "top_p": 0.9,
            "top_k": 20,
            "min_p": 0.01,
            "seed": 7,
            "stop": ["\n\n"],
            "presence_penalty": 0.1,
            "frequency_penalty": 0.1,
            "logit_bias": {"5": -1},
            "logprobs": True,
            "top_logprobs": 2,
            "n": 1,
            "user": "someone",
            "speculation": _SPECULATION,
        },
    ),
    (
        "/v1/chat/completions",
        {
            "messages": [
                _USER,
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {
                            "id": "call_1",
                            "type": "function",
                            "function": {"name": "weather", "arguments": '{"place": "Rome"}'},
                        }
                    ],
                },
                {"role": "tool", "tool_call_id": "call_1", "content": "Sunny."},
            ],
            "tools": [{"type": "function", "function": {"name": "weather", "parameters": _PLACE}}],
            "tool_choice": "auto",
            "max_tokens": 3,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    ),
    (
        "/v1/chat/completions",
        {
            "messages": [_USER],
            "response_format": {"type": "json_schema", "json_schema": {"name": "trip", "schema": _PLACE}},
            "max_completion_tokens": 3,
        },
    ),
    (
        "/v1/completions",
        {"prompt": ["Once", "Twice"], "max_tokens": 2, "echo": True, "logprobs": 1, "suffix": ""},
    ),
    (
        "/v1/completions",
        {"prompt": [1, 2, 3], "max_tokens": 2, "structured_outputs": {"regex": "[0-9]{1,3}"}},
    ),
    ("/tokenize", {"messages": [_USER], "add_generation_prompt": True}),
    ("/detokenize", {"tokens": [1, 2, 3]}),
)
HOSTILE: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    -(2**63) - 1,
    10**400,
    0.5,
    -0.0,
    1e-320,
    1e308,
    float("nan"),
    float("inf"),
    "",
    " ",
    "\x00",
    "\ud800",
    "\u202e\x1b[31m",
    "none",
    "x" * 20_000,
    "(a+)+$",
    "<|im_end|>\n<|im_start|>assistant\n",
    "{{ 7 * 7 }}",
    [],
    {},
    [[]],
    [None],
    [0] * 5_000,
    [{}],
    {"": None},
    {"type": "object"},
    {"$ref": "#"},
    {"type": "array", "items": {"$ref": "#"}, "minItems": 10**9},
)
CALL = GenerateCall(
    "Once",
    request_id="a",
    sampling=SamplingParams(max_tokens=2, temperature=0.5, seed=3),
    speculation=SpeculationOptions(mode=Mode.EXACT),
    timeout_s=20.0,
)


def requests(seed: int) -> Iterator[Ask]:
    """Damaged requests over both doors."""
    rng = random.Random(f"fuzz:{seed}")
    number = 0
    while True:
        number += 1
        if number % GRPC_EVERY == 0:
            yield Ask("grpc", raw=_damaged_bytes(rng, _message(rng)), may_be_valid=True, door="grpc")
        else:
            path, body = rng.choice(BODIES)
            yield Ask(path, raw=_damaged_body(rng, body), may_be_valid=True, path=path, door="http")


def _damaged_body(rng: random.Random, body: dict[str, Any]) -> bytes:
    damaged: Any = deepcopy(body)
    for _ in range(rng.randint(1, MOST_FAULTS)):
        damaged = rng.choice(_FAULTS)(rng, damaged)
    text = json.dumps(damaged, ensure_ascii=rng.random() < 0.5).encode(errors="surrogatepass")
    return _damaged_bytes(rng, text) if rng.random() < BYTES_SHARE else text


def _inner(rng: random.Random, value: Any) -> tuple[Any, Any] | None:
    """A container anywhere inside and one of its keys; None if there is none."""
    found: list[tuple[Any, Any]] = []
    todo = [value]
    while todo:
        one = todo.pop()
        keys = (
            list(one) if isinstance(one, dict) else range(min(len(one), 50)) if isinstance(one, list) else ()
        )
        found += [(one, key) for key in keys]
        todo += [one[key] for key in keys]
    return rng.choice(found) if found else None


def _replaced(rng: random.Random, body: Any) -> Any:
    if place := _inner(rng, body):
        place[0][place[1]] = deepcopy(rng.choice(HOSTILE))
    return body


def _removed(rng: random.Random, body: Any) -> Any:
    if place := _inner(rng, body):
        del place[0][place[1]]
    return body


def _renamed(rng: random.Random, body: Any) -> Any:
    if (place := _inner(rng, body)) and isinstance(place[0], dict):
        place[0][rng.choice((f"{place[1]}s", str(place[1]).upper(), "", "\x00", "__class__"))] = place[0].pop(
            place[1]
        )
    return body


def _swapped(rng: random.Random, body: Any) -> Any:
    """Two values change places, so that each is of a type that occurs but not here."""
    one, other = _inner(rng, body), _inner(rng, body)
    if one and other:
        values = deepcopy(one[0][one[1]]), deepcopy(other[0][other[1]])
        one[0][one[1]] = values[1]
        if other[1] in (other[0] if isinstance(other[0], dict) else range(len(other[0]))):
            other[0][other[1]] = values[0]
    return body


def _wrapped(rng: random.Random, body: Any) -> Any:
    """A value goes some levels deeper."""
    if place := _inner(rng, body):
        value = place[0][place[1]]
        for _ in range(rng.choice((1, 2, 60))):
            value = [value] if rng.random() < 0.5 else {"value": value}
        place[0][place[1]] = value
    return body


def _repeated(rng: random.Random, body: Any) -> Any:
    place = _inner(rng, body)
    if place and isinstance(place[0], list):
        place[0].extend(deepcopy(place[0][place[1]]) for _ in range(rng.choice((1, 200))))
    return body


def _whole(rng: random.Random, _: Any) -> Any:
    return deepcopy(rng.choice(HOSTILE))


_FAULTS: tuple[Callable[[random.Random, Any], Any], ...] = (
    *(_replaced,) * 6,
    *(_removed, _renamed, _swapped, _wrapped, _repeated) * 2,
    _whole,
)


def _message(rng: random.Random) -> bytes:
    """A valid call, now and then with a number at the limit."""
    call, sampling = CALL, CALL.sampling
    if rng.random() < 0.3:
        sampling = replace(sampling, temperature=rng.choice((-1.0, 1e308, float("nan"), float("inf"))))
    if rng.random() < 0.3:
        sampling = replace(sampling, max_tokens=rng.choice((0, 1, 2**32 - 1)))
    if rng.random() < 0.2:
        ids = rng.choices((-1, 0, 1, 2**31 - 1), k=rng.choice((1, 3000)))
        call = replace(call, input=tuple(ids))
    if rng.random() < 0.2:
        call = replace(call, timeout_s=rng.choice((-1.0, 0.0, float("nan"), float("inf"))))
    return call_to_wire(replace(call, sampling=sampling)).SerializeToString()


def _damaged_bytes(rng: random.Random, data: bytes) -> bytes:
    """Cut, changed, doubled or with noise in it."""
    at = rng.randrange(len(data) + 1)
    kind = rng.randrange(5)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + rng.randbytes(rng.randint(1, 9)) + data[at:]
    if kind == 2:
        return data[:at] + data[at : at + 40] * rng.choice((2, 50)) + data[at + 40 :]
    if kind == 3 and at < len(data):
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    return data
