"""Endless streams of requests, made from the held-out demo prompts, so that answers can be judged.

Every stream is a pure function of its arguments. A greedy request without relaxation always has the same answer; that
is how load tests detect a service that mixes up sessions.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from itertools import count, cycle
from typing import Any

from adasd.demo.tasks import Example
from adasd.requests import Mode
from load_tests.demo_prompts import examples
from load_tests.load.answers import Ask

NUM_DISTINCT = 48
WHOLE_ANSWER = 128
"""Tokens within which every demo answer ends."""


def whole(
    kind: str = "chat",
    modes: Sequence[Mode | None] = (None,),
    num_distinct: int = NUM_DISTINCT,
    max_tokens: int = WHOLE_ANSWER,
) -> Iterator[Ask]:
    """Greedy questions, each sent in every one of ``modes``."""
    for example in cycle(examples(num_distinct)):
        for mode in modes:
            yield asked(example, mode.value if mode and len(modes) > 1 else kind, mode, max_tokens)


def asked(example: Example, kind: str, mode: Mode | None, max_tokens: int = WHOLE_ANSWER) -> Ask:
    """One question; it is judged if there is room for the whole answer."""
    judged = example if max_tokens >= WHOLE_ANSWER else None
    return Ask(kind, (("user", example.prompt),), max_tokens, mode, example=judged)


def short(max_tokens: int, num_distinct: int = NUM_DISTINCT) -> Iterator[Ask]:
    """The first tokens of answers, for many requests in little time."""
    return whole("short", num_distinct=num_distinct, max_tokens=max_tokens)


def long_prompts(num_turns: int, max_tokens: int = 32) -> Iterator[Ask]:
    """Conversations of ``num_turns`` earlier questions and answers before the last question."""
    known = examples(NUM_DISTINCT)
    for number in count():
        turns = [known[(number + turn) % len(known)] for turn in range(num_turns + 1)]
        said = [pair for turn in turns[:-1] for pair in (("user", turn.prompt), ("assistant", turn.answer))]
        yield Ask("long", (*said, ("user", turns[-1].prompt)), max_tokens)


def leaving(seed: int) -> Iterator[Ask]:
    """Every second client disconnects after one to eight chunks."""
    rng = random.Random(seed)
    for number, ask in enumerate(whole()):
        if number % 2:
            yield ask
        else:
            yield Ask("leaving", ask.messages, ask.max_tokens, leave_after_chunks=rng.randint(1, 8))


def slow_readers(pause_s: float) -> Iterator[Ask]:
    """Clients that wait ``pause_s`` seconds after each chunk."""
    for ask in whole():
        yield Ask("slow reader", ask.messages, ask.max_tokens, example=ask.example, pause_s=pause_s)


def malformed() -> Iterator[Ask]:
    """Invalid requests, each in a different way; gRPC has one of its own."""
    user = [{"role": "user", "content": "Hello"}]
    wrong: list[dict[str, Any]] = [
        {},
        {"messages": []},
        {"messages": "Hello"},
        {"messages": [{"role": "wizard", "content": "Hello"}]},
        {"messages": [{"role": "user"}]},
        {"messages": user, "max_tokens": 0},
        {"messages": user, "max_tokens": -5},
        {"messages": user, "max_tokens": 10**9},
        {"messages": user, "max_tokens": "many"},
        {"messages": user, "temperature": -1},
        {"messages": user, "top_p": 2},
        {"messages": user, "model": "no-such-model"},
        {"messages": user, "speculation": {"mode": "turbo"}},
        {"messages": user, "speculation": {"drafting": "no-such-policy"}},
        {"messages": user, "logit_bias": {"x": 1}},
        {"messages": [{"role": "user", "content": "word " * 20_000}]},
    ]
    bodies: list[bytes] = [
        b"",
        b"{",
        b"[]",
        b'"messages"',
        b"\xff\xfe\x00",
        b'{"messages": ' + b"[" * 2000,
        *(json.dumps(body).encode() for body in wrong),
    ]
    yield from (Ask("malformed", raw=body, door="http") for body in bodies)
    while True:
        for number, body in enumerate(bodies):
            yield Ask("malformed", raw=body, door="grpc" if number % 5 == 4 else "http")


def large(num_chars: int) -> Iterator[Ask]:
    """Prompts far beyond any context, which are refused; over HTTP, whose bodies may be that long."""
    body = json.dumps({"prompt": "word " * (num_chars // 5), "max_tokens": 1}).encode()
    while True:
        yield Ask("large", raw=body, path="/v1/completions", door="http")


def alternate(*streams: Iterator[Ask]) -> Iterator[Ask]:
    """One request of each stream in turn."""
    while True:
        for stream in streams:
            yield next(stream)


def one_in(every: int, rare: Iterator[Ask], common: Iterator[Ask]) -> Iterator[Ask]:
    """``rare`` at every ``every``-th place."""
    for number in count(1):
        yield next(rare) if number % every == 0 else next(common)
