"""pydantic-ai: chat completions and responses."""

from __future__ import annotations

import asyncio

import pytest
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.clients.frameworks.flow import (
    ANSWER,
    CITY,
    KEY,
    MODEL,
    QUESTION,
    REPORT,
    TOM,
    TOO_LONG,
    Cat,
    base_url,
)


def weather(city: str) -> str:
    """The weather of a city."""
    assert city == CITY
    return REPORT


async def main() -> None:
    provider = OpenAIProvider(base_url=base_url(), api_key=KEY)
    for kind in (OpenAIChatModel, OpenAIResponsesModel):
        model = kind(MODEL, provider=provider)
        agent = Agent(model, tools=[weather], instructions="Be short.")
        assert (await agent.run(QUESTION)).output == ANSWER
        async with agent.run_stream(QUESTION) as streamed:
            assert await streamed.get_output() == ANSWER
        native = Agent(model, output_type=NativeOutput(Cat))
        assert (await native.run(QUESTION)).output == TOM
        with pytest.raises(ModelHTTPError) as refused:
            await agent.run(TOO_LONG)
        assert refused.value.status_code == 400
        assert "maximum context length" in str(refused.value.body)


asyncio.run(main())
