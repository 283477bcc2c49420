"""For operators and their tools: request ids, metrics, CORS, tokens, version."""

from __future__ import annotations

import json

import httpx
import pytest
from prometheus_client import CollectorRegistry

from adasd.methods.registry import EXACT_TESTS, acceptance_methods, drafting_methods
from services.config import LogConfig
from services.gateway.http.routes import GatewaySettings, create_app
from services.observability import logs
from services.observability.instrumentation import InstrumentedBackend
from services.observability.metrics import ServiceMetrics
from services.observability.reporter import Reporter
from services.observability.service_events import to_all
from tests.unit.gateway.fake_backend import TOKENIZER, FakeBackend

# --------------------------------------------------------------------------- request ids


async def test_a_sane_request_id_of_the_client_is_used_everywhere(door):
    response = await door.post("/v1/completions", {"prompt": "the cat"}, **{"x-request-id": "trace-7:a.b"})
    assert response.headers["x-request-id"] == "trace-7:a.b"
    assert response.json()["id"] == "cmpl-trace-7:a.b"
    assert "trace-7:a.b" in door.backend.tally.requests[0].request_id


@pytest.mark.parametrize("header", ["", "x" * 129, "two words", "a\tb", "-x", 'quo"te', "ä"])
async def test_any_other_is_replaced(door, header):
    headers = {"x-request-id": header.encode("latin-1")}
    response = await door.client.get("/health", headers=headers)
    assert len(response.headers["x-request-id"]) == 32
    assert response.headers["x-request-id"] != header


async def test_two_requests_may_have_the_same_id(door):
    bodies = [
        await door.post("/v1/completions", {"prompt": ["the cat", "sat"]}, **{"x-request-id": "same"})
        for _ in range(2)
    ]
    assert {body.json()["id"] for body in bodies} == {"cmpl-same"}
    assert len({request.request_id for request in door.backend.tally.requests}) == 4


@pytest.mark.parametrize("path", ["/absent", "/v1/models/absent"])
async def test_refusals_have_a_request_id_too(door, path):
    assert (await door.client.get(path, headers={"x-request-id": "r1"})).headers["x-request-id"] == "r1"


async def test_so_does_an_unforeseen_error(door):
    body = {"prompt": "crash the cat sat on the mat and the dog"}
    response = await door.post("/v1/completions", body, **{"x-request-id": "r1"})
    assert (response.status_code, response.headers["x-request-id"]) == (500, "r1")


async def test_behind_a_proxy_that_answers_with_ids_none_is_added():
    app = create_app(FakeBackend(), GatewaySettings(answer_request_ids=False))
    async with client_of(app) as client:
        for prompt in ("the cat", "crash the cat sat on the mat"):
            response = await client.post(
                "/v1/completions", json={"prompt": prompt}, headers={"x-request-id": "r1"}
            )
            assert "x-request-id" not in response.headers


# --------------------------------------------------------------------------- logs


@pytest.fixture
def logged(monkeypatch, tmp_path):
    """Configures logs as a replica does."""
    file = (tmp_path / "log").open("w+")

    def configure(**config):
        logs.configure(LogConfig(**config), file)

        def lines():
            file.flush()
            file.seek(0)
            return file.read().splitlines()

        return lines

    yield configure
    file.close()


async def test_json_logs_are_one_object_per_record_with_the_request_id(door, logged):
    lines = logged(format="json")
    await door.post("/v1/completions", {"prompt": "the cat sat"}, **{"x-request-id": "r1"})
    await door.post("/v1/completions", {"prompt": "crash the cat sat on the mat"}, **{"x-request-id": "r2"})
    await door.client.get("/health")
    records = [json.loads(line) for line in lines()]
    ended = [record for record in records if record["message"] == "request ended"]
    assert [(r["request_id"], r["status"], r["path"]) for r in ended] == [
        ("r1", 200, "/v1/completions"),
        ("r2", 500, "/v1/completions"),
    ]
    failure = next(record for record in records if record["level"] == "error")
    assert "ZeroDivisionError" in failure["error"]
    assert "the cat" not in "\n".join(lines())


async def test_text_logs_have_the_id_and_the_figures_in_one_line(door, logged):
    lines = logged(format="text")
    await door.post("/v1/completions", {"prompt": "the cat sat"}, **{"x-request-id": "r1"})
    (line,) = lines()
    assert "[r1] request ended" in line
    assert "status=200" in line


async def test_the_level_is_honoured(door, logged):
    lines = logged(level="error")
    await door.post("/v1/completions", {"prompt": "the cat sat"})
    assert lines() == []


async def test_the_answers_record_has_counts_alone(logged):
    lines = logged(format="json")
    backend = InstrumentedBackend(FakeBackend(), logs.log_answer)
    async with client_of(create_app(backend)) as client:
        await client.post("/v1/completions", json={"prompt": "the cat sat on the mat"})
    answer = next(r for r in map(json.loads, lines()) if r["message"] == "answer ended")
    assert answer["outcome"] == "length"
    assert answer["completion_tokens"] > 0
    assert answer["request_id"]
    assert "mat" not in json.dumps(answer)


# --------------------------------------------------------------------------- metrics


def client_of(app):
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(base_url="http://door", transport=transport)


async def test_metrics_over_http():
    registry = CollectorRegistry()
    metrics = ServiceMetrics(registry, "fake-model", 256, 8)
    tell = to_all(metrics)
    backend = InstrumentedBackend(FakeBackend(), tell)
    scrape = Reporter(registry, "o1", "orchestrator").scrape
    async with client_of(create_app(backend, scrape=scrape, tell=tell)) as client:
        answer = (await client.post("/v1/completions", json={"prompt": "the cat sat"})).json()
        await client.post("/v1/completions", json={"prompt": "overload"})
        await client.post("/v1/completions", json={"prompt": "x", "temperature": 9})
        scraped, head = await client.get("/metrics"), await client.head("/metrics")
    assert head.status_code == scraped.status_code == 200
    assert head.content == b""
    assert head.headers["content-type"] == scraped.headers["content-type"]
    assert scraped.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = dict(line.rsplit(" ", 1) for line in scraped.text.splitlines() if not line.startswith("#"))
    own = 'replica="o1",role="orchestrator"'
    vllm = f'engine="0",model_name="fake-model",{own}'
    assert float(lines[f"vllm:generation_tokens_total{{{vllm}}}"]) == answer["usage"]["completion_tokens"]
    assert float(lines[f"vllm:prompt_tokens_total{{{vllm}}}"]) == answer["usage"]["prompt_tokens"]
    for code in ("overloaded", "invalid_request"):
        assert float(lines[f'adasd_requests_refused_total{{code="{code}",door="http",{own}}}']) == 1
    assert "_created" not in scraped.text


async def test_a_server_without_metrics_says_so(door):
    assert (await door.client.get("/metrics")).status_code == 404


# --------------------------------------------------------------------------- CORS


async def test_no_origin_is_allowed_by_default(door):
    response = await door.client.get("/health", headers={"origin": "https://a.example"})
    assert "access-control-allow-origin" not in response.headers


async def test_a_listed_origin_is_allowed_and_no_other():
    app = create_app(FakeBackend(), GatewaySettings(cors_origins=("https://a.example",)))
    ask = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    async with client_of(app) as client:
        for origin, allowed in (("https://a.example", True), ("https://b.example", False)):
            preflight = await client.options("/v1/completions", headers={"origin": origin, **ask})
            assert (preflight.status_code == 200) is allowed
            response = await client.get("/health", headers={"origin": origin})
            assert (response.headers.get("access-control-allow-origin") == origin) is allowed


async def test_every_method_is_listed_with_its_source(door):
    (model,) = (await door.client.get("/v1/models")).json()["data"]
    for kind, methods in (
        ("drafting", drafting_methods()),
        ("acceptance", acceptance_methods()),
        ("exact", EXACT_TESTS),
    ):
        listed = model["adasd"][kind]
        assert [one["name"] for one in listed] == [method.name for method in methods]
        assert all(one["summary"] and one["source"] for one in listed)


# --------------------------------------------------------------------------- tokens and version


async def test_a_prompt_becomes_tokens_and_text_again(door):
    body = {"prompt": "the cat sat", "model": "fake-model", "return_token_strs": True}
    answer = (await door.post("/tokenize", body)).json()
    assert tuple(answer["tokens"]) == TOKENIZER.encode("the cat sat")
    assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"])
    assert answer["max_model_len"] == 256
    text = (await door.post("/detokenize", {"tokens": answer["tokens"]})).json()
    assert text["prompt"].endswith("the cat sat")


async def test_a_conversation_becomes_the_tokens_that_chat_would_see(door):
    messages = [{"role": "user", "content": "the cat"}]
    answer = (await door.post("/tokenize", {"messages": messages})).json()
    await door.chat("the cat", max_tokens=1)
    assert tuple(answer["tokens"]) == door.backend.tally.requests[0].prompt
    assert answer["token_strs"] is None


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "x", "messages": []}, "prompt"),
        ("/tokenize", {"prompt": 5}, "prompt"),
        ("/tokenize", {"prompt": "\0"}, "prompt"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"messages": [{"role": "user", "content": "x"}], "add_generation_prompt": False}, None),
        ("/tokenize", {"prompt": "x", "chat_template": "y"}, "chat_template"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [1, -1]}, "tokens.1"),
        ("/detokenize", {"tokens": [10**8]}, "tokens.0"),
        ("/detokenize", {"tokens": "abc"}, "tokens"),
    ],
)
async def test_bad_bodies_are_refused_with_the_field(door, path, body, param):
    response = await door.post(path, body)
    assert response.status_code == 400
    assert param is None or response.json()["error"]["param"] == param


async def test_another_model_is_not_served(door):
    for path, body in (("/tokenize", {"prompt": "x"}), ("/detokenize", {"tokens": [1]})):
        assert (await door.post(path, {"model": "other", **body})).status_code == 404


async def test_the_version_is_told(door):
    assert (await door.client.get("/version")).json()["version"]


async def test_the_document_describes_the_new_routes(door):
    document = (await door.client.get("/openapi.json")).json()
    assert {"/tokenize", "/detokenize", "/version"} <= set(document["paths"])
    assert {"TokenizeBody", "DetokenizeBody"} <= set(document["components"]["schemas"])


# --------------------------------------------------------------------------- small courtesies

TOOLS = [{"type": "function", "function": {"name": "weather"}, "cache_control": {}}]


@pytest.mark.parametrize(
    "path", ["/", "/health", "/ready", "/version", "/v1/models", "/v1/models/fake-model"]
)
async def test_head_is_answered_where_get_is(door, path):
    asked, got = await door.client.head(path), await door.client.get(path)
    assert (asked.status_code, asked.content) == (200, b"")
    assert asked.headers["content-length"] == got.headers["content-length"]


async def test_a_slash_at_the_end_changes_nothing(door):
    assert (await door.client.get("/v1/models/")).json()["object"] == "list"
    assert (await door.client.get("/health/")).status_code == 200
    assert (await door.post("/v1/completions/", {"prompt": "the cat"})).status_code == 200


async def test_pages_may_read_our_headers():
    app = create_app(FakeBackend(), GatewaySettings(cors_origins=("https://a.example",)))
    async with client_of(app) as client:
        response = await client.get("/health", headers={"origin": "https://a.example"})
    exposed = response.headers["access-control-expose-headers"]
    assert {"X-Request-Id", "X-Adasd-Ignored-Fields", "Retry-After"} <= set(exposed.split(", "))


async def test_a_conversation_is_tokenised_with_its_tools_and_switches(tool_door):
    messages = [{"role": "user", "content": "the cat"}]
    counts = [
        (await tool_door.post("/tokenize", {"messages": messages, **fields})).json()["count"]
        for fields in ({}, {"tools": TOOLS})
    ]
    assert counts[1] > counts[0]
    await tool_door.chat("the cat", tools=TOOLS)
    assert len(tool_door.backend.tally.requests[0].prompt) == counts[1]


@pytest.mark.parametrize("fields", [{"tools": TOOLS}, {"chat_templat": 1}, {"mm_processor_kwargs": {}}])
async def test_what_tokenize_does_not_know_is_refused(door, fields):
    assert (await door.post("/tokenize", {"prompt": "x", **fields})).status_code == 400
    assert (await door.post("/tokenize", {"prompt": "x", "chat_template": None})).status_code == 200


async def test_a_line_of_the_log_cannot_be_forged(door, logged):
    read = logged(format="text")
    await door.client.get("/absent%0A2026-01-01%20INFO%20forged%1b[31m status=200")
    lines = read()
    assert len(lines) == 1
    assert "\x1b" not in lines[0]
    assert lines[0].count(" status=") == 2  # one of them within quotes
    assert '"/absent\\n2026' in lines[0]
