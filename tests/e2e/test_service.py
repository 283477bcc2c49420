"""The service from outside: what clients send and get, over real HTTP, Ray and gRPC."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import openai
import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from transformers import AutoModelForCausalLM, AutoTokenizer

from adasd.demo.tasks import Task, heldout
from tests.e2e.server import Server, ask, body, events, token_ids

pytestmark = pytest.mark.cluster

NUM_PROMPTS = 200
MAX_TOKENS = 96


def test_it_is_alive_ready_and_lists_its_model(client: httpx.Client):
    assert client.get("/health").status_code == 200
    ready = client.get("/ready")
    assert ready.status_code == 200
    assert ready.json() == {"ready": True, "degraded": False, "reasons": []}
    (model,) = client.get("/v1/models").json()["data"]
    assert (model["id"], model["adasd"]["verdict_backend"]) == ("pair", "torch")


def test_requests_that_came_too_early_were_told_to_come_again(server: Server):
    assert 503 in server.statuses_before
    assert server.statuses_before <= {503, 200}


def test_a_chat_answer_reports_its_tokens_and_its_speculation(client: httpx.Client):
    answer = ask(client, max_tokens=40, ignore_eos=True)
    assert answer["usage"]["completion_tokens"] == 40 == len(token_ids(answer))
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["speculation"]["mode"] == "exact"
    kinds = answer["metrics"]["adasd"]["tokens"]
    assert sum(kinds.values()) == 40
    assert kinds["relaxed"] == 0
    metrics = answer["metrics"]["speculative_decoding"]
    assert sum(metrics["acceptance_histogram"]) == metrics["num_spec_steps"] > 0


def test_a_stream_says_what_the_whole_answer_says(client: httpx.Client):
    whole = ask(client, max_tokens=40, ignore_eos=True)
    asked = body(max_tokens=40, ignore_eos=True, stream=True, stream_options={"include_usage": True})
    with client.stream("POST", "/v1/chat/completions", json=asked) as response:
        chunks = list(events(response))
    text = "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks[:-1])
    assert text == whole["choices"][0]["message"]["content"]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 40
    assert chunks[-1]["speculation"] == whole["speculation"]
    num_steps = chunks[-1]["metrics"]["adasd"]["num_rounds"]
    assert len(chunks) - 2 == num_steps  # all but the first token's chunk and the report


def test_every_mode_is_honoured_and_echoed(client: httpx.Client):
    for mode in ("off", "exact", "adaptive"):
        answer = ask(client, max_tokens=32, ignore_eos=True, speculation={"mode": mode})
        assert answer["speculation"]["mode"] == mode
        drafted = (answer["metrics"]["speculative_decoding"] or {}).get("num_draft_tokens", 0)
        assert (drafted > 0) is (mode != "off")


@pytest.mark.parametrize("draft", ["model", "ngram", "suffix", "auto"])
def test_wherever_its_blocks_come_from_the_answer_is_the_targets(client: httpx.Client, draft: str):
    asked = {
        "max_tokens": 48,
        "ignore_eos": True,
    }  # text after the end repeats itself, so look-ups find matches
    alone = ask(client, speculation={"mode": "off"}, **asked)
    answer = ask(client, speculation={"mode": "exact", "draft": draft}, **asked)
    assert token_ids(answer) == token_ids(alone)
    assert answer["speculation"]["draft"] == draft
    used = answer["metrics"]["adasd"]["drafts_used"]
    assert used == [draft] if draft != "auto" else used
    assert set(used) <= {"model", "ngram", "suffix"}


@pytest.mark.parametrize("draft", ["self", "tiny"])
def test_a_source_that_is_not_deployed_is_refused_with_those_that_are(client: httpx.Client, draft: str):
    response = client.post("/v1/chat/completions", json=body(speculation={"draft": draft}))
    assert response.status_code == 400
    assert "it offers: model, ngram, suffix, auto" in response.json()["error"]["message"]


def test_text_completions_work_too(client: httpx.Client):
    asked = {"prompt": "Once upon a time", "max_tokens": 8, "temperature": 0, "ignore_eos": True}
    answer = client.post("/v1/completions", json=asked).json()
    assert answer["object"] == "text_completion"
    assert answer["usage"]["completion_tokens"] == 8


def test_a_stop_text_ends_the_answer_before_it(client: httpx.Client):
    text = ask(client, max_tokens=60, ignore_eos=True)["choices"][0]["message"]["content"]
    stop = next(text[i : i + 3] for i in range(len(text) // 2, len(text)) if text[i : i + 3].isascii())
    choice = ask(client, max_tokens=60, ignore_eos=True, stop=[stop])["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["content"] == text[: text.index(stop)]


def test_the_openai_client_is_content(server: Server):
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    assert client.models.list().data[0].id == "pair"
    messages = [{"role": "user", "content": "Tell me a story."}]
    whole = client.chat.completions.create(
        model="pair",
        messages=messages,
        max_tokens=16,
        temperature=0,
        extra_body={"speculation": {"mode": "exact"}},
    )
    assert whole.model_extra is not None
    assert whole.model_extra["speculation"]["mode"] == "exact"
    stream = client.chat.completions.create(
        model="pair", messages=messages, max_tokens=16, temperature=0, stream=True
    )
    assert (
        "".join(chunk.choices[0].delta.content or "" for chunk in stream) == whole.choices[0].message.content
    )
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="pair", messages=[], max_tokens=1)
    assert refused.value.param == "messages"


def test_grpc_says_that_it_serves(server: Server):
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answer = health.Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_greedy_exact_is_token_identical_to_generate(server: Server, pair: tuple[Path, Path]):
    """200 held-out prompts of all tasks, eight at a time, against ``generate`` on the target alone in float32."""
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(pair[0], dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(pair[0])
    prompts = [example.prompt for task in Task for example in heldout(task, NUM_PROMPTS // len(Task))]
    with server.client() as client, ThreadPoolExecutor(8) as pool:
        served = list(pool.map(lambda prompt: token_ids(ask(client, prompt, max_tokens=MAX_TOKENS)), prompts))
    for prompt, tokens in zip(prompts, served, strict=True):
        assert tokens == generated(model, tokenizer, prompt), prompt


def generated(model, tokenizer, prompt: str) -> list[int]:
    """The answer of ``transformers``; its end-of-sequence token has an empty text, as in the service."""
    messages = [{"role": "user", "content": prompt}]
    ids = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    out = model.generate(**ids, max_new_tokens=MAX_TOKENS, do_sample=False)
    return out[0, ids["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_a_seed_gives_the_same_tokens_with_and_without_a_draft(client: httpx.Client, temperature: float):
    def sampled(seed: int, **speculation) -> list[int]:
        answer = ask(client, max_tokens=48, temperature=temperature, seed=seed, speculation=speculation)
        return token_ids(answer)

    for seed in range(5):
        alone = sampled(seed, mode="off")
        assert sampled(seed, mode="exact") == alone
        assert sampled(seed, mode="exact", max_draft_tokens=2) == alone
    assert sampled(1, mode="off") != sampled(2, mode="off")


CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
BAD = {
    "not JSON": (CHAT, b"{"),
    "not an object": (CHAT, b"[]"),
    "not UTF-8": (CHAT, b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}'),
    "a NaN": (CHAT, b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}'),
    "no messages": (CHAT, b"{}"),
    "empty messages": (CHAT, body() | {"messages": []}),
    "messages of another type": (CHAT, body() | {"messages": "hello"}),
    "a message without content": (CHAT, body() | {"messages": [{"role": "user"}]}),
    "a negative temperature": (CHAT, body(temperature=-1)),
    "a huge temperature": (CHAT, body(temperature=1e308)),
    "a temperature as text": (CHAT, body(temperature="0.5")),
    "max_tokens of zero": (CHAT, body(max_tokens=0)),
    "max_tokens beyond the context": (CHAT, body(max_tokens=10_000_000)),
    "top_p of zero": (CHAT, body(top_p=0)),
    "an endless number": (CHAT, body(seed=10**400)),
    "too many stops": (CHAT, body(stop=["x"] * 1000)),
    "an empty stop": (CHAT, body(stop="")),
    "an unknown speculation field": (CHAT, body(speculation={"mod": "off"})),
    "an unknown mode": (CHAT, body(speculation={"mode": "fast"})),
    "an unknown policy": (CHAT, body(speculation={"drafting": "magic"})),
    "blocks without end": (CHAT, body(speculation={"max_draft_tokens": 10**9})),
    "an unknown model": (CHAT, body(model="gpt-17")),
    "tools": (CHAT, body(tools=[{"type": "function", "function": {"name": "f"}}])),
    "no prompt": (TEXT, b"{}"),
    "an empty prompt": (TEXT, {"prompt": "", "max_tokens": 1}),
    "token ids beyond the vocabulary": (TEXT, {"prompt": [10**8], "max_tokens": 1}),
    "a prompt of a wrong type": (TEXT, {"prompt": {"a": 1}, "max_tokens": 1}),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_in_openais_words_and_the_server_goes_on(client: httpx.Client, name: str):
    path, sent = BAD[name]
    content = sent if isinstance(sent, bytes) else json.dumps(sent).encode()
    response = client.post(path, content=content, headers={"Content-Type": "application/json"})
    assert 400 <= response.status_code < 500, response.text
    error = response.json()["error"]
    assert error["message"]
    assert {"message", "type", "param", "code"} <= set(error)
    assert client.get("/health").status_code == 200


def test_a_prompt_longer_than_the_context_is_refused_with_both_lengths(client: httpx.Client):
    context_len = client.get("/v1/models").json()["data"][0]["max_model_len"]
    response = client.post(CHAT, json=body("story " * context_len, max_tokens=1))
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert str(context_len) in error["message"]


def test_unknown_paths_and_methods_are_no_server_errors(client: httpx.Client):
    assert client.get("/v1/nothing").status_code == 404
    assert client.get(CHAT).status_code == 405
