"""The client that people have: openai, sync and async, against a real HTTP server."""

import asyncio

import openai
import pytest

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
