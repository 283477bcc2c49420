"""API keys: who may call, how much, and what is never shown."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from contextlib import asynccontextmanager

import grpc
import httpx
import openai
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from adasd.errors import RateLimited, Unauthenticated
from adasd.testing.clock import FakeClock
from services.config import ApiKey
from services.gateway.auth.key_ring import KeyRing, shares
from services.gateway.auth.key_uses import KeyUses, OwnUses
from services.gateway.grpc.door import start_grpc
from services.gateway.http.routes import GatewaySettings, create_app
from services.transport.generation import GenerationClient
from services.transport.generation_messages import GENERATION_SERVICE, GenerateCall
from tests.unit.gateway.conftest import Door, serving
from tests.unit.gateway.fake_backend import FakeBackend

ALICE, BOB = "sk-alice-0123456789", "sk-bob-9876543210"
LONG = "the cat sat on the mat and the dog ate the hat " * 4


def api_key(name: str, key: str, **limits) -> ApiKey:
    return ApiKey(name, hashlib.sha256(key.encode()).hexdigest(), **limits)


def ring(clock=time.monotonic, **limits) -> KeyRing:
    return KeyRing((api_key("alice", ALICE), api_key("bob", BOB, **limits)), OwnUses(KeyUses(clock)))


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@asynccontextmanager
async def keyed_door(keys: KeyRing, told=None):
    backend = FakeBackend()
    app = create_app(backend, GatewaySettings(), tell=(told if told is not None else []).append, keys=keys)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(base_url="http://door", transport=transport) as client:
        yield Door(backend, client, "http://door")


# --------------------------------------------------------------------------- the ring


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        ALICE,
        f"Basic {ALICE}",
        f"Bearer {ALICE}x",
        f"Bearer {ALICE[:-1]}",
        "Bearer é",
    ],
)
def test_whoever_names_no_known_key_is_refused_and_the_key_is_not_repeated(header):
    with pytest.raises(Unauthenticated) as refused:
        ring().identify(header)
    assert ALICE[:-1] not in str(refused.value)


@pytest.mark.parametrize("header", [f"Bearer {BOB}", f"bearer {BOB}", f"Bearer   {BOB} "])
def test_each_key_is_known_by_its_name(header):
    found = ring().identify(header)
    assert found is not None
    assert found.name == "bob"


def test_without_keys_everybody_may_call():
    assert KeyRing().identify(None) is None


async def test_at_most_so_many_requests_in_any_minute():
    clock = FakeClock()
    keys = ring(clock, requests_per_minute=3)
    bob, alice = keys.identify(f"Bearer {BOB}"), keys.identify(f"Bearer {ALICE}")
    for _ in range(3):
        async with keys.use(bob):
            clock.advance(10)
    with pytest.raises(RateLimited) as limited:
        async with keys.use(bob):
            pass
    assert limited.value.retry_after_s == 30
    async with keys.use(alice):  # another key is not affected
        clock.advance(29.9)
    with pytest.raises(RateLimited):
        async with keys.use(bob):
            pass
    clock.advance(0.1)
    async with keys.use(bob):
        pass


async def test_at_most_so_many_requests_at_once_and_every_end_frees_one():
    keys = ring(max_concurrent=2)
    bob = keys.identify(f"Bearer {BOB}")
    async with keys.use(bob):
        async with keys.use(bob):
            with pytest.raises(RateLimited, match="2 answers at once"):
                async with keys.use(bob):
                    pass
        with pytest.raises(ZeroDivisionError):
            async with keys.use(bob):
                raise ZeroDivisionError
        async with keys.use(bob):
            pass
    assert keys.num_running("bob") == 0


@pytest.mark.parametrize(
    ("limit", "num_replicas", "share"), [(8, 1, 8), (8, 3, 2), (1, 4, 1), (None, 2, None)]
)
def test_replicas_share_the_limits_of_a_key(limit, num_replicas, share):
    (key,) = shares([ApiKey("a", "0" * 64, limit, limit)], num_replicas)
    assert (key.requests_per_minute, key.max_concurrent) == (share, share)


async def test_a_refused_request_uses_up_nothing_and_waits_until_there_is_room_for_all_of_it():
    clock = FakeClock()
    async with keyed_door(ring(clock, requests_per_minute=4)) as door:

        async def ask(num: int) -> httpx.Response:
            body = {"prompt": "the cat", "max_tokens": 2, "n": num}
            return await door.client.post("/v1/completions", json=body, headers=bearer(BOB))

        for _ in range(3):
            assert (await ask(1)).status_code == 200
            clock.advance(10.0)
        refused = await ask(2)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "30")
        too_many = await ask(5)
        assert (too_many.status_code, too_many.json()["error"]["param"]) == (400, "n")
        clock.advance(30.0)
        assert (await ask(2)).status_code == 200
        assert (await ask(1)).status_code == 429


async def test_every_answer_of_a_request_counts():
    keys = ring(max_concurrent=2, requests_per_minute=5)
    async with keyed_door(keys) as door:
        for n, status in ((3, 400), (2, 200), (1, 200), (2, 200), (1, 429)):
            response = await door.post("/v1/completions", {"prompt": "the cat", "n": n}, **bearer(BOB))
            assert response.status_code == status, (n, response.text)
            assert keys.num_running("bob") == 0


# --------------------------------------------------------------------------- HTTP


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"),
        ("GET", "/v1/models/fake-model"),
        ("GET", "/metrics"),
        ("HEAD", "/metrics"),
        ("GET", "/version"),
        ("GET", "/openapi.json"),
        ("GET", "/absent"),
        ("GET", "/health/x"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
        ("POST", "/tokenize"),
        ("POST", "/detokenize"),
    ],
)
async def test_every_route_asks_for_a_key(method, path):
    told = []
    async with keyed_door(ring(), told) as door:
        for headers in ({}, bearer("sk-wrong")):
            response = await door.client.request(method, path, headers=headers)
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
            assert response.headers["x-request-id"]
            if method != "HEAD":
                error = response.json()["error"]
                assert error["code"] == "invalid_api_key"
                assert error["type"] == "authentication_error"
                assert "sk-wrong" not in response.text
        assert [event.code for event in told] == ["invalid_api_key"] * 2
        assert (await door.client.request(method, path, headers=bearer(ALICE))).status_code != 401


@pytest.mark.parametrize("path", ["/health", "/ready", "/"])
async def test_health_and_the_empty_page_ask_for_none(path):
    async with keyed_door(ring()) as door:
        assert (await door.client.get(path)).status_code == 200


async def test_a_key_over_its_rate_gets_429_with_the_time_to_wait():
    clock = FakeClock()
    async with keyed_door(ring(clock, requests_per_minute=2)) as door:
        for _ in range(2):
            assert (await door.post("/tokenize", {"prompt": "x"}, **bearer(BOB))).status_code == 200
        clock.advance(20.5)
        response = await door.post("/tokenize", {"prompt": "x"}, **bearer(BOB))
        assert response.status_code == 429
        assert response.headers["retry-after"] == "40"
        assert response.json()["error"]["code"] == "rate_limit_exceeded"
        assert (await door.client.get("/v1/models", headers=bearer(BOB))).status_code == 200
        assert (await door.post("/tokenize", {"prompt": "x"}, **bearer(ALICE))).status_code == 200


async def test_a_stream_holds_its_keys_place_until_it_ends_or_is_left():
    keys, backend = ring(max_concurrent=1), FakeBackend(step_s=0.02)
    body = {"prompt": LONG, "stream": True}
    async with (
        serving(create_app(backend, keys=keys)) as address,
        httpx.AsyncClient(base_url=address, timeout=20, headers=bearer(BOB)) as client,
    ):
        async with client.stream("POST", "/v1/completions", json=body) as response:
            assert response.status_code == 200
            backend.step_s = 3600.0  # it would not end by itself
            assert keys.num_running("bob") == 1
            assert (await client.post("/v1/completions", json={"prompt": "the cat"})).status_code == 429
        async with asyncio.timeout(20):
            while keys.num_running("bob"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        backend.step_s = 0.0
        assert (await client.post("/v1/completions", json={"prompt": "the cat"})).status_code == 200


async def test_the_openai_client_raises_its_own_classes():
    keys = ring(requests_per_minute=1)
    async with serving(create_app(FakeBackend(), keys=keys)) as address:
        url = f"{address}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="sk-wrong", max_retries=0) as stranger:
            with pytest.raises(openai.AuthenticationError):
                await stranger.models.list()
        async with openai.AsyncOpenAI(base_url=url, api_key=BOB, max_retries=0) as bob:
            assert (await bob.completions.create(model="fake-model", prompt="the cat")).choices
            with pytest.raises(openai.RateLimitError):
                await bob.completions.create(model="fake-model", prompt="the cat")


async def test_neither_keys_nor_prompts_nor_answers_are_logged(caplog):
    caplog.set_level(logging.DEBUG)
    async with keyed_door(ring()) as door:
        for headers in (bearer(ALICE), bearer("sk-stranger")):
            await door.post("/v1/completions", {"prompt": "the cat sat"}, **headers)
        await door.post("/v1/completions", {"prompt": "crash the cat sat on the mat"}, **bearer(ALICE))
    ours = [r for r in caplog.records if r.name.startswith(("services", "adasd"))]
    assert len(ours) >= 3
    logged = "\n".join(f"{r.getMessage()} {r.__dict__}" for r in ours)
    assert "alice" in logged  # the key's name
    for secret in (ALICE, "sk-stranger", "the cat"):
        assert secret not in logged


# --------------------------------------------------------------------------- gRPC


@asynccontextmanager
async def grpc_door(keys: KeyRing, told=None):
    backend = FakeBackend()
    tell = (told if told is not None else []).append
    server = await start_grpc(backend, "127.0.0.1", 0, 100_000, keys, tell)
    try:
        yield backend, server.address
    finally:
        await server.stop()


@asynccontextmanager
async def grpc_client(address: str, key: str | None):
    client = GenerationClient(address, api_key=key)
    try:
        yield client
    finally:
        await client.close()


async def generated(client, prompt="the cat"):
    return [event async for event in client.generate(GenerateCall(prompt))]


@pytest.mark.parametrize("key", [None, "sk-wrong"])
async def test_grpc_asks_for_a_key_everywhere_but_for_health(key):
    told = []
    async with grpc_door(ring(), told) as (backend, address), grpc_client(address, key) as client:
        for ask in (generated(client), client.model_info(), client.loads(), client.abort(["x"])):
            with pytest.raises(Unauthenticated):
                await ask
        assert backend.tally.started == 0
        assert [event.door for event in told] == ["grpc"] * 4
        async with grpc.aio.insecure_channel(address) as channel:
            health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert health.status == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await channel.unary_unary(f"/{GENERATION_SERVICE}/GetServerInfo")(b"")
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
            reflection = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await reflection(iter([b""])).read()
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_grpc_answers_those_with_a_key():
    async with grpc_door(ring()) as (_, address), grpc_client(address, ALICE) as client:
        assert len(await generated(client)) > 1
        assert (await client.model_info()).model == "fake-model"


async def test_grpc_limits_generate_and_says_how_long_to_wait():
    clock = FakeClock()
    async with grpc_door(ring(clock, requests_per_minute=1)) as (_, address):
        async with grpc_client(address, BOB) as client:
            await generated(client)
            with pytest.raises(RateLimited):
                await generated(client)
            await client.server_info()
        async with grpc.aio.insecure_channel(address) as channel:
            method = channel.unary_stream(f"/{GENERATION_SERVICE}/Generate")
            with pytest.raises(grpc.aio.AioRpcError) as limited:
                await method(b"", metadata=(("authorization", f"Bearer {BOB}"),)).read()
        assert limited.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        status = status_pb2.Status.FromString(
            dict(limited.value.trailing_metadata())["grpc-status-details-bin"]
        )
        retry = error_details_pb2.RetryInfo()
        assert status.details[0].Unpack(retry)
        assert retry.retry_delay.seconds == 60


async def test_one_ring_counts_both_doors():
    keys = ring(requests_per_minute=2)
    async with keyed_door(keys) as door, grpc_door(keys) as (_, address), grpc_client(address, BOB) as client:
        await door.post("/v1/completions", {"prompt": "the cat"}, **bearer(BOB))
        await generated(client)
        assert (await door.post("/v1/completions", {"prompt": "the cat"}, **bearer(BOB))).status_code == 429
