"""Any bad input gets a 4xx in OpenAI's format that names the field, never a 500, and the server goes on."""

import asyncio
import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adasd.errors import AdasdError, Code
from adasd.text.tokenizer import Tokenizer
from services.gateway.http import connection
from services.gateway.http.error_table import TABLE
from services.gateway.http.order import parse, read_chat, read_completion
from services.gateway.http.responses.body import RESPONSES_BODY
from services.gateway.http.responses.order import read_responses
from services.gateway.http.schema import CHAT_BODY, COMPLETION_BODY
from tests.unit.gateway.fake_backend import FakeBackend
from tests.unit.text.tokenizers_for_tests import TOOL_TEMPLATE, byte_level

HELLO = [{"role": "user", "content": "the cat"}]
TOOLS = [{"type": "function", "function": {"name": "f"}}]


def error_of(response):
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return error


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b'{"messages": [{"role": "user", "content": "a"}]',
        b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}',
        b'{"messages": [{"role": "user", "content": "\xed\xa0\x80"}]}',
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"seed": ' + b"9" * 5000 + b"}",
        b"[" * 50_000,
        b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
    ],
    ids=range(12),
)
async def test_a_body_that_is_no_json_object_in_utf8_is_a_400(door, body):
    for path in ("/v1/chat/completions", "/v1/completions"):
        response = await door.post(path, body)
        assert response.status_code == 400, response.text
        assert error_of(response)["code"] == "invalid_request"
    assert (await door.chat()).status_code == 200


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [7]}, "messages.0"),
        ({"messages": [{}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": "a\0b"}]}, "messages.0.content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages.0.content.0.type",
        ),
        ({"messages": [*HELLO, {"role": "system", "content": "late"}]}, "messages"),
        ({"model": 5}, "model"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"temperature": -0.5}, "temperature"),
        ({"temperature": 1e300}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": [1]}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.01}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": float("-inf")}, "min_p"),
        ({"seed": 2**63}, "seed"),
        ({"seed": "1"}, "seed"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens"),
        ({"ignore_eos": "yes"}, "ignore_eos"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": "x" * 257}, "stop.0"),
        ({"stop": [""]}, "stop.0"),
        ({"stop": {"a": 1}}, "stop"),
        ({"stop": ["ok", "a\0"]}, "stop.1"),
        ({"stop_token_ids": [-1]}, "stop_token_ids.0"),
        ({"stop_token_ids": [10**6]}, "stop_token_ids.0"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"²": 1}}, "logit_bias"),
        ({"logit_bias": {"999999": 1}}, "logit_bias.999999"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"logit_bias": {"5": float("nan")}}, "logit_bias.5"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"n": 2, "best_of": 3}, "best_of"),
        ({"best_of": 2}, "best_of"),
        ({"stream": 1}, "stream"),
        ({"stream_options": {"include_usage": "x"}}, "stream_options.include_usage"),
        ({"stream_options": {"include_usages": True}}, "stream_options.include_usages"),
        ({"speculation": "fast"}, "speculation"),
        ({"speculation": {"mode": "fast"}}, "speculation.mode"),
        ({"speculation": {"drafting": "nonsense"}}, "speculation.drafting"),
        ({"speculation": {"max_draft_tokens": 0}}, "speculation.max_draft_tokens"),
        ({"speculation": {"max_draft_tokens": 9}}, "speculation.max_draft_tokens"),
        ({"speculation": {"max_relaxed_fraction": 1.1}}, "speculation.max_relaxed_fraction"),
        ({"tools": [{"type": "function"}]}, "tools.0.function"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
        ({"tools": [{"type": "retrieval"}]}, "tools.0.type"),
        ({"tools": TOOLS}, "tools"),  # this model's template knows none
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": "always"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {}}}, "tool_choice"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs.enable_thinking"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_object", "more": 1}}, "response_format.more"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
            "response_format.json_schema.name",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": 7}}}},
            "response_format.json_schema.schema",
        ),
        ({"guided_regex": "("}, "guided_regex"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_grammar": "nonsense"}, "guided_grammar"),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "response_format"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs.regex"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag"),
        ({"structured_outputs": {"json": {"type": "banana"}}}, "structured_outputs.json"),
        ({"guided_regex": "a", "ignore_eos": True}, "ignore_eos"),
        ({"guided_regex": "a", "min_tokens": 2}, "min_tokens"),
        ({"guided_whitespace_pattern": " "}, "guided_whitespace_pattern"),
        ({"logprobs": 1}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"grammar": 'root ::= "a"'}, "grammar"),
        ({"mirostat": 2}, "mirostat"),
        ({"dry_multiplier": 0.8}, "dry_multiplier"),
        ({"xtc_probability": 0.5}, "xtc_probability"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),  # this model's template has no such switch
        ({"documents": [{"text": "x"}]}, "documents"),
        ({"lora": [{"id": 0}]}, "lora"),
        ({"add_special_tokens": True}, "add_special_tokens"),
        ({"repeat_penalty": 0}, "repeat_penalty"),
        ({"n_predict": -2}, "n_predict"),
        ({"n_predict": 4, "max_tokens": 5}, "n_predict"),
        ({"json_schema": {"type": "banana"}}, "json_schema"),
        ({"echo": True}, "echo"),
        ({"presence_penalty": 2.5}, "presence_penalty"),
        ({"frequency_penalty": float("nan")}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"repetition_penalty": 2.1}, "repetition_penalty"),
    ],
    ids=str,
)
async def test_a_wrong_field_is_a_400_that_names_it(door, fields, param):
    response = await door.post("/v1/chat/completions", {"messages": HELLO, **fields})
    assert response.status_code == 400, response.text
    assert error_of(response)["param"] == param
    assert error_of(response)["type"] == "invalid_request_error"
    assert door.backend.tally.started == 0


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        (None, "prompt"),
        ("", "prompt"),
        ([], "prompt"),
        ([[]], "prompt.0"),
        ([1, "a"], "prompt"),
        ([True], "prompt.0"),
        ([[True]], "prompt.0"),
        ([1, 2.5], "prompt"),
        ([-1], "prompt.0"),
        ([5, 10**9], "prompt.1"),
        (["ok", ""], "prompt.1"),
        (["ok", 5], "prompt.1"),
        (["x"] * 33, "prompt"),
        ({"text": "x"}, "prompt"),
        ("a\0b", "prompt"),
    ],
    ids=str,
)
async def test_a_wrong_prompt_is_a_400_that_names_the_part(door, prompt, param):
    response = await door.post("/v1/completions", {"prompt": prompt})
    assert response.status_code == 400, response.text
    assert error_of(response)["param"] == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ["x"] * 32, "n": 5}, "n"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 21}, "logprobs"),
        ({"echo": 1}, "echo"),
        ({"top_logprobs": 1}, "top_logprobs"),
        ({"suffix": "end"}, "suffix"),
    ],
    ids=str,
)
async def test_a_wrong_field_of_a_text_completion_is_named(door, fields, param):
    response = await door.post("/v1/completions", {"prompt": "the cat", **fields})
    assert response.status_code == 400, response.text
    assert error_of(response)["param"] == param
    assert door.backend.tally.started == 0


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("mod", "mode"), ("max_drafts", "max_draft_tokens"), ("relaxed_fraction", "max_relaxed_fraction")],
)
async def test_an_unknown_option_of_speculation_names_the_nearest(door, name, nearest):
    response = await door.chat(speculation={name: 1})
    assert response.status_code == 400
    assert f"did you mean '{nearest}'" in error_of(response)["message"]
    assert error_of(response)["param"] == f"speculation.{name}"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_a_prompt_longer_than_the_context_names_both_lengths(door, path):
    ids = [door.backend.tokenizer.encode("the")[0]] * 300
    body = {"prompt": ids} if "chat" not in path else {"messages": [{"role": "user", "content": "q" * 300}]}
    response = await door.post(path, body)
    error = error_of(response)
    assert response.status_code == 400
    assert error["code"] == "context_length_exceeded"
    assert error["param"] == ("prompt" if "chat" not in path else "messages")
    assert ("300" if "chat" not in path else "303") in error["message"]
    assert "256" in error["message"]


async def test_prompt_and_answer_together_must_fit(door):
    assert (
        await door.post("/v1/completions", {"prompt": [300 - 5] * 56, "max_tokens": 200})
    ).status_code == 200
    response = await door.post("/v1/completions", {"prompt": [300 - 5] * 57, "max_tokens": 200})
    assert error_of(response)["code"] == "context_length_exceeded"


async def test_an_unknown_model_is_a_404_that_names_the_served_one(door):
    response = await door.chat(model="gpt-17")
    assert response.status_code == 404
    assert error_of(response)["code"] == "model_not_found"
    assert "fake-model" in error_of(response)["message"]


async def test_a_body_beyond_the_limit_is_a_413_announced_or_not(door):
    big = json.dumps({"prompt": "x" * 200_000}).encode()
    assert (await door.post("/v1/completions", big)).status_code == 413

    async def parts():
        for start in range(0, len(big), 50_000):
            yield big[start : start + 50_000]

    response = await door.client.post(
        "/v1/completions", content=parts(), headers={"content-type": "application/json"}
    )
    assert response.status_code == 413
    assert "100000" in error_of(response)["message"]


async def test_a_body_that_does_not_end_is_a_408(door, monkeypatch):
    monkeypatch.setattr(connection, "BODY_S", 0.05)

    async def drips():
        while True:
            yield b" "
            await asyncio.sleep(0.01)

    headers = {"content-type": "application/json"}
    response = await door.client.post("/v1/completions", content=drips(), headers=headers)
    assert response.status_code == 408
    assert "not complete after 0.05 s" in error_of(response)["message"]


async def test_other_media_types_paths_and_methods_have_the_same_error_shape(door):
    form = await door.client.post("/v1/completions", data={"prompt": "x"})
    assert (form.status_code, error_of(form)["type"]) == (415, "invalid_request_error")
    assert error_of(await door.client.get("/v1/nothing"))
    assert (await door.client.get("/v1/completions")).status_code == 405
    assert error_of(await door.client.get("/v1/models/absent"))["code"] == "model_not_found"


async def test_fields_without_effect_are_reported_in_a_header(door):
    response = await door.chat(
        user="me", metadata={}, unheard_of={"type": "content"}, tools=[], **{"we\r\nird": 1}
    )
    assert response.status_code == 200
    assert response.headers["x-adasd-ignored-fields"] == "unheard_of"


async def test_neutral_values_of_unsupported_fields_are_welcome(door):
    neutral = {
        "n": 1,
        "logprobs": False,
        "presence_penalty": 0.0,
        "frequency_penalty": 0,
        "response_format": {"type": "text"},
        "tool_choice": "none",
        "tools": None,
        "stop": None,
        "temperature": None,
        "mirostat": 0,
        "xtc_probability": 0.0,
        "lora": [],
        "n_predict": -1,
        "stream_options": {"include_obfuscation": False},
    }
    response = await door.chat(**neutral)
    assert response.status_code == 200, response.text
    assert "x-adasd-ignored-fields" not in response.headers


async def test_llama_cpps_names_are_honoured(door):
    response = await door.chat(n_predict=3, repeat_penalty=1.25, json_schema={"type": "object"})
    assert response.status_code == 200, response.text
    sampling = door.backend.tally.requests[0].sampling
    assert (sampling.max_tokens, sampling.repetition_penalty) == (3, 1.25)
    assert sampling.grammar.text == '{"type": "object"}'


async def test_a_switch_of_the_template_may_stand_beside_the_messages(door):
    template = "{% if enable_thinking %}<think>{% endif %}{{ messages[0].content }}"
    door.backend.tokenizer = Tokenizer(byte_level(template))
    for value in (True, False):
        assert (await door.chat("the cat", enable_thinking=value)).status_code == 200
        prompt = door.backend.tokenizer.decode(door.backend.tally.requests[-1].prompt)
        assert prompt == ("<think>the cat" if value else "the cat")


async def test_a_prompt_that_cannot_fit_is_refused_before_it_is_tokenised(door, monkeypatch):
    def tokenise(*_):
        raise AssertionError("nobody should tokenise this")

    monkeypatch.setattr(door.backend.tokenizer, "encode", tokenise)
    monkeypatch.setattr(door.backend.tokenizer, "apply_chat_template", tokenise)
    for response in (
        await door.post("/v1/completions", {"prompt": "x" * 90_000}),
        await door.chat("x" * 90_000),
    ):
        error = error_of(response)
        assert (response.status_code, error["code"]) == (400, "context_length_exceeded")
        assert error["message"].startswith(
            "This model's maximum context length is 256 tokens. However, you requested "
        )


async def test_a_body_may_be_gzip(door):
    body = gzip.compress(json.dumps({"prompt": "the cat"}).encode())
    zipped = {"content-encoding": "gzip"}
    assert (await door.post("/v1/completions", body, **zipped)).json()["usage"]["prompt_tokens"] == 2
    bomb = gzip.compress(b" " * 10_000_000)
    assert (await door.post("/v1/completions", bomb, **zipped)).status_code == 413
    for wrong in (b"no gzip", body[:-9]):
        assert (await door.post("/v1/completions", wrong, **zipped)).status_code == 400
    assert (await door.post("/v1/completions", body, **{"content-encoding": "br"})).status_code == 415


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/responses", "use /v1/responses"),
        ("/v1/responses/resp_1", "does not offer stored responses"),
        ("/v1/responses/input_tokens", "use /tokenize"),
        ("/api/generate", "use /v1/completions"),
        ("/v1/v1/models", "use /v1/models"),
        ("/v1/embeddings", "does not offer embeddings"),
        ("/nothing", "/openapi.json"),
    ],
)
async def test_a_path_that_other_servers_have_says_what_to_use_instead(door, path, said):
    response = await door.client.get(path)
    assert response.status_code == 404
    assert said in error_of(response)["message"]


async def test_an_unforeseen_error_is_a_500_without_its_details(door, caplog):
    response = await door.post("/v1/completions", {"prompt": "crash the cat sat on the mat and the dog"})
    assert response.status_code == 500
    assert "secret" not in response.text
    assert error_of(response)["type"] == "server_error"


def test_every_code_has_a_status():
    assert set(TABLE) == set(Code)


ITEMS = [
    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "x"}]},
]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        [*HELLO, *TOOLS, "required", {"type": "json_object"}, {"regex": "a+"}, TOOLS, ITEMS, *ITEMS]
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
BODIES = (CHAT_BODY, COMPLETION_BODY, RESPONSES_BODY)
FIELDS = sorted({"unknown", *(name for body in BODIES for name in body.model_fields)})
BACKENDS = FakeBackend(), FakeBackend(tokenizer=Tokenizer(byte_level(TOOL_TEMPLATE)))


@settings(max_examples=200)
@given(
    fields=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=5),
    with_input=st.booleans(),
    backend=st.sampled_from(BACKENDS),
)
def test_random_bodies_are_read_or_refused_as_the_requests_fault(fields, with_input, backend):
    for kind, read, name, value in (
        (CHAT_BODY, read_chat, "messages", HELLO),
        (COMPLETION_BODY, read_completion, "prompt", "the cat"),
        (RESPONSES_BODY, read_responses, "input", "the cat"),
    ):
        body = {**fields, **({name: value} if with_input else {})}
        try:
            order = read(parse(json.dumps(body).encode(), kind), backend, "x")
        except AdasdError as refusal:
            refused = refusal
        else:
            refused = None
            least = 0 if kind is COMPLETION_BODY else 1
            assert all(r.prompt and r.sampling.max_tokens >= least for r in order.requests)
        assert refused is None or TABLE[refused.code].status in (400, 404)
