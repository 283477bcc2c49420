"""A service with few slots: callers wait or are refused at once, then served; idle drafts stop and return.

Streams that cannot go on end with an error that says why and what to do, over both doors.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import httpx
import pytest

from adasd.errors import AdasdError, Overloaded
from adasd.requests import SamplingParams
from services.transport.generation import GenerationClient
from services.transport.generation_messages import GenerateCall
from tests.e2e.server import Server, ask, body, events, running, token_ids, wait_for

pytestmark = pytest.mark.cluster

NUM_SLOTS = MAX_QUEUED = 2
ADMISSION_S = 10
LONG = 1950


async def ask_over_grpc(server: Server) -> None:
    client = GenerationClient(f"127.0.0.1:{server.grpc_port}")
    try:
        async for _ in client.generate(GenerateCall((1, 2, 3))):
            pass
    finally:
        await client.close()


@pytest.fixture(scope="module")
def narrow(pair: tuple[Path, Path]) -> Iterator[Server]:
    """Two slots, two places in the queue, and drafts only under load."""
    slots = ["--target-num-slots", str(NUM_SLOTS), "--draft-num-slots", str(NUM_SLOTS)]
    limits = ["--max-queued-requests", str(MAX_QUEUED), "--admission-timeout-s", str(ADMISSION_S)]
    models = ["--target", str(pair[0]), "--draft", str(pair[1]), "--speculation-bypass", "false"]
    drafts = ["--draft-min-replicas", "0", "--draft-down-after-s", "3"]
    with running(*models, *slots, *limits, *drafts) as server:
        yield server


@pytest.mark.timeout(240)
def test_a_full_service_queues_then_refuses_and_never_hangs(narrow: Server):
    with ThreadPoolExecutor(MAX_QUEUED) as pool:
        waiting, held = [], []
        with narrow.client() as client, ExitStack() as streams:
            for _ in range(NUM_SLOTS):
                opened = streams.enter_context(narrow.client())
                asked = body(max_tokens=LONG, ignore_eos=True, stream=True, speculation={"mode": "off"})
                response = streams.enter_context(opened.stream("POST", "/v1/chat/completions", json=asked))
                held.append(events(response))  # an unreferenced generator closes its connection
                next(held[-1])
            for _ in range(MAX_QUEUED):
                waiting.append(pool.submit(wait_for_an_answer, narrow))
            wait_for(lambda: are_waiting(client, MAX_QUEUED), 60.0)
            refused = client.post("/v1/chat/completions", json=body(max_tokens=4))
            assert refused.status_code == 429, refused.text
            assert int(refused.headers["Retry-After"]) >= 1
            assert refused.json()["error"]["code"] == Overloaded.code.value
            with pytest.raises(Overloaded):
                asyncio.run(ask_over_grpc(narrow))
            assert not any(answer.done() for answer in waiting)
        assert all(answer.result(60.0)["choices"][0]["message"]["content"] for answer in waiting)
        with narrow.client() as client:
            wait_for(lambda: client.get("/ready").status_code == 200, 60.0)


def are_waiting(client: httpx.Client, number: int) -> bool:
    """Whether this many requests wait for a slot."""
    lines = client.get("/metrics").text.splitlines()
    return any(
        line.startswith("vllm:num_requests_waiting{") and line.endswith(f" {number}.0") for line in lines
    )


def wait_for_an_answer(server: Server) -> dict:
    with server.client() as client:
        return ask(client, max_tokens=8, ignore_eos=True)


@pytest.mark.timeout(300)
def test_idle_drafts_scale_to_zero_and_wake_up_again(narrow: Server):
    with narrow.client() as client:
        plain = token_ids(ask(client))
        wait_for(lambda: not narrow.replicas("draft"), 60.0)
        assert client.get("/ready").status_code == 200
        assert token_ids(ask(client)) == plain

        def is_drafted() -> bool:
            answer = ask(client, max_tokens=400, ignore_eos=True)
            return bool((answer["metrics"]["speculative_decoding"] or {}).get("num_draft_tokens"))

        wait_for(is_drafted, 120.0)
        assert narrow.replicas("draft")


async def endings(
    server: Server, happens: Callable[[], None], timeout_s: float
) -> tuple[dict, grpc.aio.AioRpcError]:
    """How a stream over HTTP and one over gRPC end, after their first chunks, when something ``happens``."""
    stub = GenerationClient(f"127.0.0.1:{server.grpc_port}")
    sampling = SamplingParams(max_tokens=LONG, temperature=0.0, ignore_eos=True)
    call = stub.generate(GenerateCall("Once", sampling=sampling, timeout_s=timeout_s))
    asked = body(max_tokens=LONG, ignore_eos=True, stream=True, timeout_s=timeout_s)
    try:
        with server.client() as client, client.stream("POST", "/v1/chat/completions", json=asked) as response:
            stream = events(response)
            next(stream)
            await anext(call)
            happens()
            *_, last = await asyncio.to_thread(list, stream)
        with pytest.raises(AdasdError) as raised:
            [event async for event in call]
    finally:
        await stub.close()
    cause = raised.value.__cause__
    assert isinstance(cause, grpc.aio.AioRpcError)
    return last["error"], cause


@pytest.mark.timeout(240)
async def test_streams_that_cannot_go_on_say_why_and_what_to_do(narrow: Server):
    """Their target hangs beyond their deadline; it dies, and nobody starts another one."""
    (target,) = narrow.replicas("target")
    over_http, over_grpc = await endings(narrow, lambda: os.kill(target, signal.SIGSTOP), timeout_s=3.0)
    os.kill(target, signal.SIGCONT)
    assert over_http["code"] == "deadline_exceeded"
    assert over_grpc.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    for message in (over_http["message"], over_grpc.details()):
        assert (
            message == "the request took longer than its limit of 3 s; ask for fewer tokens, or for more time"
        )

    (controller,) = (pid for pid, command in narrow.processes().items() if "ServeController" in command)
    os.kill(controller, signal.SIGSTOP)
    try:
        over_http, over_grpc = await endings(narrow, lambda: os.kill(target, signal.SIGKILL), timeout_s=100.0)
    finally:
        os.kill(controller, signal.SIGCONT)
    assert over_http["code"] == "worker_lost"
    assert over_grpc.code() is grpc.StatusCode.UNAVAILABLE
    for message in (over_http["message"], str(over_grpc.details())):
        assert message.startswith("the target worker was lost: ")
        assert message.endswith("; send the request again")
    with narrow.client() as client:
        wait_for(lambda: client.post("/v1/chat/completions", json=body(max_tokens=2)).is_success, 120.0)
