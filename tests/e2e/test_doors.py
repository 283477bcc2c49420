"""Every option of a real service through common clients: openai over HTTPS, gRPC with TLS.

There are two orchestrator replicas, so an abort sent to one must reach the other. The chat template knows tools.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pydantic
import pytest

from adasd.errors import WorkerLost
from adasd.requests import Grammar, GrammarKind, SamplingParams
from adasd.results import Chunk, Complete, FinishReason
from services.transport.generation import GenerationClient
from services.transport.generation_messages import GenerateCall
from tests.e2e.server import Server, running, wait_for
from tests.unit.transport.certificates import Authority

pytestmark = pytest.mark.cluster

TELL = [{"role": "user", "content": "Tell me a story."}]
LOST = "lost: "
TOOL_PREFIX = (
    "{%- if tools -%}{%- for tool in tools -%}{{ '<|system|>' + (tool | tojson) + '<|end|>' }}{%- endfor -%}"
    "{#- <tool_call> -#}{%- endif -%}"
)
"""Put before the pair's own template, which refuses the role of tool results."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def service(
    pair: tuple[Path, Path], authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("tools")
    for model in pair:
        shutil.copytree(model, folder / model.name)
        template = folder / model.name / "chat_template.jinja"
        template.write_text(TOOL_PREFIX + template.read_text())
    issued = authority.issue("door", "localhost")
    with running(
        *("--target", str(folder / pair[0].name), "--draft", str(folder / pair[1].name)),
        *("--model-name", "pair", "--model-roots", str(folder), "--orchestrator-replicas", "2"),
        *("--tls-certificate", str(issued.certificate), "--tls-key", str(issued.key)),
        *("--speculation-bypass", "false"),
    ) as started:
        yield started


@pytest.fixture
def client(service: Server, authority: Authority) -> Iterator[openai.OpenAI]:
    trusted = httpx.Client(verify=ssl.create_default_context(cafile=str(authority.file)), timeout=120)
    url = f"https://localhost:{service.port}/v1"
    with trusted, openai.OpenAI(base_url=url, api_key="none", max_retries=0, http_client=trusted) as opened:
        yield opened


def chat(client: openai.OpenAI, **fields: Any) -> Any:
    own = {"mode": fields.pop("mode", "exact")}
    extra = {"speculation": own, **fields.pop("extra_body", {})}
    asked = {"model": "pair", "messages": TELL, "max_tokens": 24, "temperature": 0, **fields}
    return client.chat.completions.create(**asked, extra_body=extra)


def test_without_tls_there_is_no_answer(service: Server):
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{service.port}/health")


def test_seeded_answers_repeat_and_the_first_is_that_of_n_1(client: openai.OpenAI):
    def texts(**fields: Any) -> list[str]:
        answer = chat(client, temperature=1.0, seed=7, **fields)
        return [choice.message.content for choice in answer.choices]

    four = texts(n=4)
    assert texts(n=4) == four
    assert texts(n=1) == four[:1]
    assert texts(n=4, mode="off") == four
    assert len(set(four)) > 1
    stream = chat(client, temperature=1.0, seed=7, n=4, stream=True)
    streamed = {i: "" for i in range(4)}
    for chunk in stream:
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content
    assert list(streamed.values()) == four


def test_logprobs_are_those_of_plain_decoding(client: openai.OpenAI):
    def listed(mode: str) -> list[Any]:
        answer = chat(client, logprobs=True, top_logprobs=3, mode=mode)
        return answer.choices[0].logprobs.content

    plain, drafted = listed("off"), listed("exact")
    assert [one.token for one in plain] == [one.token for one in drafted]
    for one, other in zip(plain, drafted, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
        assert [top.token for top in one.top_logprobs] == [top.token for top in other.top_logprobs]
        assert one.top_logprobs[0].logprob == pytest.approx(
            one.logprob, abs=1e-4
        )  # greedy takes the likeliest


def test_a_scored_prompt_reads_as_lm_eval_wants_it(client: openai.OpenAI):
    prompt = "Once upon a time there was a key"
    asked: dict[str, Any] = {"model": "pair", "prompt": prompt, "echo": True, "logprobs": 1, "temperature": 0}
    scored = client.completions.create(**asked, max_tokens=1).choices[0]
    alone = client.completions.create(**asked, max_tokens=0).choices[0]
    assert scored.text.startswith(prompt)
    assert alone.text == prompt
    assert scored.logprobs is not None
    assert alone.logprobs is not None
    assert scored.logprobs.tokens[:-1] == alone.logprobs.tokens
    assert scored.logprobs.token_logprobs[0] is None
    assert alone.logprobs.token_logprobs[1:] == pytest.approx(scored.logprobs.token_logprobs[1:-1], abs=1e-4)
    for own, top in zip(alone.logprobs.token_logprobs[1:], alone.logprobs.top_logprobs[1:], strict=True):
        assert own <= max(top.values()) <= 0


def test_penalties_change_the_answer_and_speculation_does_not(client: openai.OpenAI):
    def text(mode: str, **fields: Any) -> str:
        extra = {"ignore_eos": True, **fields.pop("extra_body", {})}
        return str(
            chat(client, max_tokens=64, mode=mode, extra_body=extra, **fields).choices[0].message.content
        )

    penalties: tuple[dict[str, Any], ...] = (
        {"presence_penalty": 2.0},
        {"frequency_penalty": 2.0},
        {"extra_body": {"repetition_penalty": 2.0, "min_p": 0.05, "top_k": 20}},
    )
    changed = [text("exact", **dict(fields)) for fields in penalties]
    assert changed == [text("off", **dict(fields)) for fields in penalties]
    assert len({*changed, text("exact")}) > 2


class Cat(pydantic.BaseModel):
    name: str
    lives: int


def test_structured_output_parses(client: openai.OpenAI):
    short = {"type": "string", "maxLength": 8}
    schema = {
        "type": "object",
        "properties": {"name": short, "lives": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["name", "lives"],
        "additionalProperties": False,
    }
    format_ = {"type": "json_schema", "json_schema": {"name": "cat", "schema": schema, "strict": True}}
    for mode in ("off", "exact", "adaptive"):
        answer = chat(client, mode=mode, max_tokens=120, temperature=1.0, seed=3, response_format=format_)
        assert answer.choices[0].finish_reason == "stop"
        Cat.model_validate_json(answer.choices[0].message.content)
    bound = chat(client, extra_body={"guided_choice": ["red", "green"]}, max_tokens=40)
    assert bound.choices[0].message.content in ("red", "green")
    parsed = client.chat.completions.parse(
        model="pair", messages=TELL, temperature=0, max_tokens=1000, response_format=_Colour
    )
    assert parsed.choices[0].message.parsed is not None


class _Colour(pydantic.BaseModel):
    red: bool
    green: bool


TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "light",
            "parameters": {
                "type": "object",
                "properties": {"on": {"type": "boolean"}, "level": {"enum": [1, 2, 3]}},
                "required": ["on", "level"],
                "additionalProperties": False,
            },
        },
    },
    {"type": "function", "function": {"name": "wait", "parameters": {"type": "object", "maxProperties": 0}}},
]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "light"}}], ids=str)
def test_calls_that_have_to_be_made_are_valid(client: openai.OpenAI, choice: Any):
    asked = {"tools": TOOLS, "tool_choice": choice, "parallel_tool_calls": False, "max_tokens": 120}
    whole = chat(client, **asked).choices[0]
    assert whole.finish_reason == "tool_calls"
    (call,) = whole.message.tool_calls
    arguments = json.loads(call.function.arguments)
    if call.function.name == "light":
        assert isinstance(arguments["on"], bool)
        assert arguments["level"] in (1, 2, 3)
    else:
        assert (call.function.name, arguments) == ("wait", {})
    streamed = ""
    for chunk in chat(client, **asked, stream=True):
        for delta in (chunk.choices[0].delta.tool_calls or []) if chunk.choices else []:
            streamed += delta.function.arguments or ""
    assert streamed == call.function.arguments


def test_predictions_and_cached_tokens_are_counted(client: openai.OpenAI):
    usage = chat(client, max_tokens=40, extra_body={"return_prediction_tokens": True}).usage
    details = usage.completion_tokens_details
    assert details.accepted_prediction_tokens > 0
    again = chat(client, max_tokens=4).usage
    assert again.prompt_tokens_details.cached_tokens <= again.prompt_tokens


def test_what_is_wrong_is_named(client: openai.OpenAI):
    for fields, param in (
        ({"n": 129}, "n"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": 7}}}},
         "response_format.json_schema.schema"),
        ({"extra_body": {"guided_regex": "("}}, "guided_regex"),
        ({"extra_body": {"best_of": 3}}, "best_of"),
    ):  # fmt: skip
        with pytest.raises(openai.BadRequestError) as refused:
            chat(client, **fields)
        assert refused.value.param == param


def test_an_answer_beyond_4_mb_arrives(service: Server, authority: Authority):
    """Longer than Serve lets its replicas send by default."""
    trusted = ssl.create_default_context(cafile=str(authority.file))
    prompt = "a key, " * 400_000
    url = f"https://localhost:{service.port}/tokenize"
    response = httpx.post(
        url, json={"prompt": prompt, "return_token_strs": True}, verify=trusted, timeout=120
    )
    assert response.status_code == 200
    assert len(response.content) > 4 * 1024 * 1024


# --------------------------------------------------------------------------- gRPC


@pytest.fixture
async def stub(service: Server, authority: Authority):
    opened = GenerationClient(f"localhost:{service.grpc_port}", ca=authority.file.read_bytes())
    yield opened
    await opened.close()


async def gathered(stub: GenerationClient, call: GenerateCall) -> tuple[list[Chunk], Complete]:
    *chunks, end = [event async for event in stub.generate(call)]
    return chunks, end


async def test_grpc_without_tls_is_refused(service: Server):
    plain = GenerationClient(f"localhost:{service.grpc_port}")
    with pytest.raises(WorkerLost):
        await plain.server_info()
    await plain.close()


async def test_grpc_honours_grammars_and_reports_logprobs(stub: GenerationClient):
    asked = SamplingParams(
        max_tokens=32, temperature=0.0, logprobs=2, prompt_logprobs=1, grammar=Grammar(GrammarKind.REGEX, "(ab){1,4}")
    )  # fmt: skip
    chunks, end = await gathered(stub, GenerateCall("Say something: ", sampling=asked))
    text = "".join(chunk.text for chunk in chunks)
    assert text.replace("ab", "") == ""
    assert text
    tokens = [token for chunk in chunks for token in chunk.tokens]
    assert all(token.logprob is not None and len(token.logprob.top) == 2 for token in tokens)
    assert len(chunks[0].prompt_logprobs) == end.usage.prompt_tokens - 1


async def test_an_abort_reaches_the_replica_that_answers(service: Server, authority: Authority):
    """Each client has its own connection, and the kernel spreads connections over both replicas."""
    ca, address = authority.file.read_bytes(), f"localhost:{service.grpc_port}"
    asking, aborting = ([GenerationClient(address, ca=ca) for _ in range(6)] for _ in range(2))
    long = SamplingParams(max_tokens=1500, temperature=1.0, ignore_eos=True)
    streams = [
        one.generate(GenerateCall("Once", request_id=f"long-{i}", sampling=long))
        for i, one in enumerate(asking)
    ]
    try:
        for stream in streams:
            await anext(stream)
        for i, one in enumerate(aborting):
            assert await one.abort([f"long-{i}", "nobody"]) == (f"long-{i}",)
        for stream in streams:
            events = [event async for event in stream]
            assert events[-1].finish_reason is FinishReason.CANCELLED
    finally:
        await asyncio.gather(*(one.close() for one in (*asking, *aborting)))


async def test_loads_show_both_tiers(stub: GenerationClient):
    async with asyncio.timeout(60):
        while {load.role for load in (await stub.loads()).replicas} != {"draft", "target"}:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    loads = await stub.loads()
    assert all(load.num_slots > 0 for load in loads.replicas)


@pytest.mark.timeout(180)
async def test_streams_of_a_killed_orchestrator_end_with_an_error_and_the_other_one_takes_them(
    service: Server, client: openai.OpenAI, authority: Authority
):
    """Half of the streams run on, those of the dead say what to do; neither looks like a success that was cut short."""
    asked: dict[str, Any] = {"max_tokens": 300, "extra_body": {"ignore_eos": True}}
    ca, address = authority.file.read_bytes(), f"localhost:{service.grpc_port}"
    stubs = [GenerationClient(address, ca=ca) for _ in range(6)]
    sampling = SamplingParams(max_tokens=300, temperature=0.0, ignore_eos=True)
    calls = [stub.generate(GenerateCall("Once", sampling=sampling)) for stub in stubs]

    def text_of(stream: Any) -> str:
        try:
            return "".join(part.choices[0].delta.content or "" for part in stream if part.choices)
        except openai.APIError as error:
            return f"{LOST}{error}"

    async def ended_well(call: Any) -> bool:
        try:
            return [event async for event in call][-1].usage.completion_tokens == 300
        except WorkerLost:
            return False

    with ThreadPoolExecutor(8) as pool:
        loop = asyncio.get_running_loop()
        streams = await asyncio.gather(
            *(loop.run_in_executor(pool, lambda: chat(client, stream=True, **asked)) for _ in range(8))
        )
        for call in calls:
            await anext(call)
        os.kill(service.replicas("orchestrator")[0], signal.SIGKILL)
        texts = await asyncio.gather(*(loop.run_in_executor(pool, text_of, stream) for stream in streams))
        is_whole = await asyncio.gather(*map(ended_well, calls))
        lost = [text for text in texts if text.startswith(LOST)]
        whole = {text for text in texts if text not in lost}
        assert lost
        assert len(whole) == 1
        assert all("send the request again" in text for text in lost)
        patient = client.with_options(max_retries=8)
        again = await loop.run_in_executor(pool, lambda: chat(patient, **asked))
        assert again.choices[0].message.content in whole
    for stub, ended in zip(stubs, is_whole, strict=True):
        assert ended or await ended_well(stub.generate(GenerateCall("Once", sampling=sampling)))
        await stub.close()
    wait_for(lambda: len(service.replicas("orchestrator")) == 2, 60.0)


def test_nothing_is_left_behind(service: Server, client: openai.OpenAI, authority: Authority):
    """A client that leaves a stream of several answers frees every slot."""

    def leave(_: int) -> None:
        stream = chat(
            client, n=3, stream=True, max_tokens=1000, temperature=1.0, extra_body={"ignore_eos": True}
        )
        next(iter(stream))
        stream.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(leave, range(8)))

    async def busy() -> int:
        stub = GenerationClient(f"localhost:{service.grpc_port}", ca=authority.file.read_bytes())
        try:
            loads = await stub.loads()
            return loads.num_running + loads.num_waiting + sum(load.num_sessions for load in loads.replicas)
        finally:
            await stub.close()

    wait_for(lambda: asyncio.run(busy()) <= 2, 60.0)  # a probe may be under way on either tier
