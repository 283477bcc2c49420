"""How a stream ends: its last events are one write, and no client waits for slots to be given back."""

import asyncio
import json
from contextlib import aclosing

import httpx
import pytest

from adasd.errors import AdasdError
from adasd.results import Chunk, Complete, FinishReason, Usage
from services.gateway.http.multiplex import merged
from services.gateway.http.routes import create_app
from services.observability.instrumentation import InstrumentedBackend
from services.observability.service_events import RequestEnded
from tests.unit.gateway.conftest import opened, serving
from tests.unit.gateway.fake_backend import FakeBackend
from tests.unit.gateway.test_keys import BOB, bearer, ring

BODY = {"prompt": "the cat sat on the mat and the dog", "stream": True, "speculation": {"mode": "exact"}}


async def sent(app, body):
    """Every ASGI message of one answer, as the HTTP server gets them."""
    messages, request = [], {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}
    asked = iter([request])

    async def receive():
        if (message := next(asked, None)) is None:
            await asyncio.Event().wait()
        return message

    async def send(message):
        messages.append(message)

    headers = [(b"content-type", b"application/json")]
    path = "/v1/completions"
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}
    await app({**scope, "raw_path": path.encode(), "asgi": {"spec_version": "2.3"}}, receive, send)
    return messages


def events_of(message):
    *events, rest = message["body"].decode().split("\n\n")
    assert rest == ""
    return [event.removeprefix("data: ") for event in events]


async def test_the_last_chunk_its_report_and_done_are_one_write_that_ends_the_body():
    start, *bodies = await sent(create_app(FakeBackend()), BODY)
    assert start["type"] == "http.response.start"
    *steps, end = [events_of(body) for body in bodies]
    assert len(steps) > 1
    assert all(len(events) == 1 for events in steps)
    last, report, done = end
    assert json.loads(last)["choices"][0]["finish_reason"] == "length"
    assert json.loads(report)["choices"] == []
    assert done == "[DONE]"
    assert [body["more_body"] for body in bodies] == [True] * len(steps) + [False]


async def test_a_failure_and_done_are_one_write_that_ends_the_body():
    _, *_, last = await sent(create_app(FakeBackend()), {**BODY, "prompt": "break " + BODY["prompt"]})
    failure, done = events_of(last)
    assert json.loads(failure)["error"]["code"] == "worker_lost"
    assert (done, last["more_body"]) == ("[DONE]", False)


@pytest.mark.parametrize("number", [1, 3], ids=["one", "three"])
async def test_the_client_has_the_whole_stream_while_slots_are_still_being_given_back(number):
    async with opened(FakeBackend()) as door:
        door.backend.may_give_back.clear()
        chunks = await door.chunks("/v1/completions", **BODY, n=number)
        assert [c["choices"] for c in chunks].count([]) == 1
        assert door.backend.tally.running == number
        door.backend.may_give_back.set()
        await door.idle()


async def test_whoever_has_the_whole_answer_may_ask_for_the_next_at_once():
    keys, backend = ring(max_concurrent=1), FakeBackend()
    backend.may_give_back.clear()
    async with (
        serving(create_app(backend, keys=keys)) as address,
        httpx.AsyncClient(base_url=address, timeout=20, headers=bearer(BOB)) as client,
    ):
        for _ in range(3):
            assert (await client.post("/v1/completions", json=BODY)).status_code == 200
        assert (keys.num_running("bob"), backend.tally.running) == (0, 3)
        backend.may_give_back.set()
        async with asyncio.timeout(20):
            await backend.idle.wait()


async def test_the_end_of_an_answer_is_told_before_its_slots_are_given_back():
    inner, told = FakeBackend(), asyncio.Queue()
    inner.may_give_back.clear()
    backend = InstrumentedBackend(
        inner, lambda e: told.put_nowait(e) if isinstance(e, RequestEnded) else None
    )
    async with opened(backend) as door:
        await door.chunks("/v1/completions", **BODY)
        async with asyncio.timeout(20):
            assert (await told.get()).outcome == "length"
        assert inner.tally.running == 1
        inner.may_give_back.set()
        async with asyncio.timeout(20):
            await inner.idle.wait()
        assert told.empty()


async def test_an_answer_that_just_stops_has_failed():
    async def answer():
        yield Chunk("a", ())

    events = merged([answer()])
    assert (await anext(events))[1].text == "a"
    with pytest.raises(AdasdError, match="without its last event"):
        await anext(events)


async def test_an_answer_that_has_ended_gives_its_slot_to_the_next_of_the_same_stream():
    slot, said = asyncio.Semaphore(1), []

    async def answer(name):
        async with slot:
            yield Chunk(name, ())
            yield Complete(FinishReason.STOP, Usage(1, 1), None)

    async with asyncio.timeout(20), aclosing(merged([answer(name) for name in "abc"])) as events:
        async for _, event in events:
            said += [event.text] if isinstance(event, Chunk) else []
    assert sorted(said) == ["a", "b", "c"]
    assert slot.locked() is False
