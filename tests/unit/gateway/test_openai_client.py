"""OpenAI's own client, sync and async, against a real HTTP server."""

import asyncio
import json

import openai
import pydantic
import pytest

from adasd.text.tokenizer import Tokenizer
from tests.unit.gateway.conftest import opened
from tests.unit.gateway.fake_backend import FakeBackend
from tests.unit.text.tokenizers_for_tests import TOOL_TEMPLATE, byte_level

HELLO = [{"role": "user", "content": "the cat sat on the mat"}]


@pytest.fixture
async def client(served):
    async with openai.AsyncOpenAI(base_url=f"{served.address}/v1", api_key="none", max_retries=0) as client:
        yield client


async def test_chat_and_our_extensions(client):
    answer = await client.chat.completions.create(
        model="fake-model", messages=HELLO, extra_body={"speculation": {"mode": "exact"}}
    )
    assert "the cat sat on the mat" in answer.choices[0].message.content
    assert answer.usage.prompt_tokens_details.cached_tokens == 2
    assert answer.model_extra["speculation"]["mode"] == "exact"
    assert answer.model_extra["metrics"]["adasd"]["tokens"]["exact"] > 0


async def test_stream_and_the_last_chunk(client):
    stream = await client.chat.completions.create(
        model="fake-model", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    *content, last = chunks
    assert "the cat sat on the mat" in "".join(c.choices[0].delta.content for c in content)
    assert content[0].choices[0].delta.role == "assistant"
    assert content[-1].choices[0].finish_reason == "length"
    assert last.choices == []
    assert last.usage.completion_tokens > 0
    assert last.model_extra["metrics"]["speculative_decoding"]["num_spec_steps"] == len(content) - 1


async def test_text_completion_and_models(client):
    answer = await client.completions.create(model="fake-model", prompt="the cat")
    assert answer.choices[0].text == "the cat"
    assert [m.id async for m in client.models.list()] == ["fake-model"]


async def test_errors_arrive_as_the_clients_own_classes(client):
    with pytest.raises(openai.BadRequestError) as bad:
        await client.chat.completions.create(model="fake-model", messages=HELLO, temperature=9)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.NotFoundError) as absent:
        await client.chat.completions.create(model="other", messages=HELLO)
    assert absent.value.code == "model_not_found"
    with pytest.raises(openai.RateLimitError):
        await client.completions.create(model="fake-model", prompt="overload")


async def test_a_failure_in_the_stream_is_raised_by_the_client(client):
    stream = await client.completions.create(
        model="fake-model", prompt="break the cat sat on the mat and the dog", stream=True
    )
    with pytest.raises(openai.APIError, match="unplugged"):
        async for _ in stream:
            pass


async def test_closing_the_clients_stream_cancels(client, served):
    served.backend.step_s = 0.05
    stream = await client.completions.create(
        model="fake-model", prompt="the cat sat on the mat and the dog ate the hat", stream=True
    )
    async for _ in stream:
        break
    await stream.close()
    await served.idle()


async def test_the_synchronous_client_streams_too(served):
    def ask():
        with (
            openai.OpenAI(base_url=f"{served.address}/v1", api_key="none", max_retries=0) as client,
            client.chat.completions.create(model="fake-model", messages=HELLO, stream=True) as stream,
        ):
            return "".join(c.choices[0].delta.content for c in stream if c.choices)

    assert "the cat sat on the mat" in await asyncio.to_thread(ask)


class Cat(pydantic.BaseModel):
    name: str
    lives: int


async def test_parse_gives_an_object(client, served):
    served.backend.says = '{"name": "Tom", "lives": 9}'
    answer = await client.chat.completions.parse(model="fake-model", messages=HELLO, response_format=Cat)
    assert answer.choices[0].message.parsed == Cat(name="Tom", lives=9)
    grammar = served.backend.tally.requests[0].sampling.grammar
    assert json.loads(grammar.text)["required"] == ["name", "lives"]


async def test_the_streaming_helper_gives_an_object_and_logprobs(client, served):
    served.backend.says = '{"name": "Tom", "lives": 9}'
    async with client.chat.completions.stream(
        model="fake-model", messages=HELLO, response_format=Cat, logprobs=True, top_logprobs=1
    ) as stream:
        kinds = {event.type async for event in stream}
        answer = await stream.get_final_completion()
    assert answer.choices[0].message.parsed.lives == 9
    assert {"content.delta", "content.done", "logprobs.content.delta"} <= kinds
    joined = b"".join(bytes(one.bytes) for one in answer.choices[0].logprobs.content)
    assert joined.decode() == served.backend.says


async def test_several_answers_with_logprobs(client):
    answer = await client.completions.create(model="fake-model", prompt="the cat", n=2, logprobs=1, echo=True)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.choices[1].logprobs.tokens[0] == answer.choices[1].text[:3] == "the"


async def test_tools_are_called_whole_parsed_and_streamed():
    class weather(pydantic.BaseModel):
        city: str

    backend = FakeBackend(tokenizer=Tokenizer(byte_level(TOOL_TEMPLATE)), context_len=1024)
    backend.says = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
    tools = [openai.pydantic_function_tool(weather)]
    async with opened(backend) as served, openai.AsyncOpenAI(
        base_url=f"{served.address}/v1", api_key="none", max_retries=0
    ) as client:  # fmt: skip
        asked = {"model": "fake-model", "messages": HELLO, "tools": tools}
        parsed = await client.chat.completions.parse(**asked)
        async with client.chat.completions.stream(**asked) as stream:
            streamed = await stream.get_final_completion()
    for answer in (parsed, streamed):
        (call,) = answer.choices[0].message.tool_calls
        assert call.function.parsed_arguments == weather(city="Rome")
        assert answer.choices[0].finish_reason == "tool_calls"
