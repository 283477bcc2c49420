"""OpenAI's own package against the running server: sync, async, streams, errors and retries."""

from __future__ import annotations

import asyncio

import openai
import pytest

from tests.clients.conftest import MODEL
from tests.e2e.server import Server

pytestmark = [pytest.mark.clients, pytest.mark.cluster]

MESSAGES = [{"role": "user", "content": "Tell a short story set in the harbor. It needs Ana, Tom and a map."}]
GREEDY = {"model": MODEL, "messages": MESSAGES, "max_tokens": 24, "temperature": 0}


@pytest.fixture
def sdk(server: Server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_models(sdk: openai.OpenAI):
    assert [model.id for model in sdk.models.list()] == [MODEL]
    assert sdk.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError) as refused:
        sdk.models.retrieve("gpt-17")
    assert refused.value.code == "model_not_found"


def test_a_stream_adds_up_to_the_whole_answer(sdk: openai.OpenAI):
    whole = sdk.chat.completions.create(**GREEDY)
    with sdk.chat.completions.create(**GREEDY, stream=True, stream_options={"include_usage": True}) as stream:
        *chunks, last = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert last.choices == []
    assert last.usage.completion_tokens == whole.usage.completion_tokens


def test_a_streamed_response_adds_up_and_is_what_chat_says(sdk: openai.OpenAI):
    chat = sdk.chat.completions.create(**GREEDY)
    asked = {"model": MODEL, "input": MESSAGES[0]["content"], "max_output_tokens": 24, "temperature": 0}
    whole = sdk.responses.create(**asked)
    with sdk.responses.stream(**asked) as stream:
        events = list(stream)
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    last = events[-1].response
    assert text == whole.output_text == last.output_text == chat.choices[0].message.content
    assert events[-1].type == f"response.{whole.status}" == f"response.{last.status}"
    assert whole.usage.output_tokens == chat.usage.completion_tokens


def test_a_predicted_output_is_accepted_and_changes_nothing(sdk: openai.OpenAI):
    whole = sdk.chat.completions.create(**GREEDY)
    text = whole.choices[0].message.content
    again = sdk.chat.completions.create(**GREEDY, prediction={"type": "content", "content": text})
    assert again.choices[0].message.content == text
    details = again.usage.completion_tokens_details
    assert details.accepted_prediction_tokens > whole.usage.completion_tokens / 2
    assert again.model_extra["metrics"]["adasd"]["drafts_used"] == ["suffix"]


async def test_many_at_once(server: Server):
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        one = await client.chat.completions.create(**GREEDY)
        answers = await asyncio.gather(*(client.chat.completions.create(**GREEDY) for _ in range(6)))
        stream = await client.chat.completions.create(**GREEDY, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert {answer.choices[0].message.content for answer in (one, *answers)} == {text}


def test_a_stream_that_is_closed_early_is_no_error(sdk: openai.OpenAI):
    with sdk.chat.completions.create(**GREEDY, stream=True) as stream:
        next(iter(stream))
    assert sdk.chat.completions.create(**GREEDY).choices[0].message.content


def test_text_completions_with_ids_echo_and_logprobs(sdk: openai.OpenAI):
    answer = sdk.completions.create(
        model=MODEL, prompt=[5, 6, 7, 8], max_tokens=4, temperature=0, logprobs=2, echo=True
    )
    logprobs = answer.choices[0].logprobs
    assert len(logprobs.token_logprobs) == len(logprobs.tokens) == 4 + answer.usage.completion_tokens
    assert logprobs.token_logprobs[0] is None
    assert all(value <= 0 for value in logprobs.token_logprobs[1:])


def test_several_answers_of_one_prompt(sdk: openai.OpenAI):
    answer = sdk.chat.completions.create(**(GREEDY | {"temperature": 1.0}), n=3, seed=5)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) > 1


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"temperature": 3}, "temperature"),
        ({"logit_bias": {"1000000": 1}}, "logit_bias.1000000"),
        ({"extra_body": {"speculation": {"mode": "fast"}}}, "speculation.mode"),
    ],
)
def test_what_is_wrong_is_named(sdk: openai.OpenAI, change: dict, param: str):
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.chat.completions.create(**(GREEDY | change))
    assert refused.value.param == param
    assert refused.value.type == "invalid_request_error"


def test_too_long_a_prompt_has_openais_code(sdk: openai.OpenAI):
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.chat.completions.create(**(GREEDY | {"messages": [{"role": "user", "content": "story " * 9000}]}))
    assert refused.value.code == "context_length_exceeded"
