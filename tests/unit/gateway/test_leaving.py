"""When a client leaves, at any point of its answer, the backend is soon free."""

import asyncio
from contextlib import suppress

import pytest
from starlette.requests import ClientDisconnect

from services.gateway.http.event_stream import EventStream, Write
from tests.unit.gateway.conftest import opened
from tests.unit.gateway.fake_backend import FakeBackend

LONG = {"prompt": "the cat sat on the mat and the dog ate the hat " * 4, "max_tokens": 60}


NEVER_S = 3600.0
"""A step of an answer that would not end by itself."""


async def started(backend, number=1):
    async with asyncio.timeout(20):
        while backend.tally.started < number:  # noqa: ASYNC110 (a fake has no event for every state)
            await asyncio.sleep(0.005)


async def test_leaving_in_the_middle_of_a_stream_closes_the_answer():
    async with opened(FakeBackend(step_s=0.05)) as door:
        async with door.client.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as response:
            async for _ in response.aiter_bytes():
                break
            door.backend.step_s = NEVER_S
            assert door.backend.tally.running == 1
        await door.idle()
        door.backend.step_s = 0.0
        assert (await door.chat()).status_code == 200


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("prompt", ["hang", ["hang", "hang"]], ids=["one", "two"])
async def test_leaving_before_the_first_event_closes_the_answer(stream, prompt):
    if stream and isinstance(prompt, list):
        prompt = ["hang"]
    async with opened(FakeBackend()) as door:
        asked = {"prompt": prompt, "stream": stream}
        request = asyncio.create_task(door.client.post("/v1/completions", json=asked))
        await started(door.backend, len(prompt) if isinstance(prompt, list) else 1)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        await door.idle()


async def test_leaving_a_plain_request_half_way_closes_the_answer():
    async with opened(FakeBackend(step_s=NEVER_S)) as door:
        request = asyncio.create_task(door.client.post("/v1/completions", json=LONG))
        await started(door.backend)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        await door.idle()


async def test_a_hundred_clients_that_leave_at_any_moment_leave_nothing_behind():
    async with opened(FakeBackend(step_s=0.01)) as door:

        async def visit(number):
            try:
                async with asyncio.timeout(0.005 * (number % 25)):
                    await door.client.post("/v1/completions", json={**LONG, "stream": number % 2 == 0})
            except TimeoutError:
                pass

        await asyncio.gather(*(visit(number) for number in range(100)))
        await door.idle()
        assert not door.backend.aborted
        assert (await door.chat()).status_code == 200


@pytest.mark.parametrize("spec_version", ["2.1", "2.4"])
async def test_the_answer_is_closed_by_the_response_itself_and_not_by_chance(spec_version):
    """A stream that waits in ``send`` is suspended between two frames, and only the response can close it."""
    closed = []

    async def endless():
        try:
            while True:
                yield Write("data: {}\n\n")
        finally:
            closed.append("frames")

    frames = endless()  # held here, so that no garbage collector closes it

    async def close():
        await frames.aclose()
        closed.append("answer")

    async def receive():
        await asyncio.sleep(0.05)
        return {"type": "http.disconnect"}

    async def send(message):
        if message.get("body"):
            if spec_version == "2.1":  # here only ``receive`` tells the response
                await asyncio.Event().wait()
            raise OSError("the client left")

    scope = {"type": "http", "method": "POST", "asgi": {"spec_version": spec_version}}
    response = EventStream(frames, close, {})
    with suppress(ClientDisconnect):
        await response(scope, receive, send)
    assert closed == ["frames", "answer"]
