"""openai-agents in its default mode, Responses, and over chat completions."""

from __future__ import annotations

import asyncio

import openai
import pytest
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)

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

CALLED: list[str] = []


@function_tool
def weather(city: str) -> str:
    """The weather of a city."""
    CALLED.append(city)
    return REPORT


async def main() -> None:
    set_tracing_disabled(True)
    client = openai.AsyncOpenAI(base_url=base_url(), api_key=KEY, max_retries=0)
    for kind in (OpenAIResponsesModel, OpenAIChatCompletionsModel):
        CALLED.clear()
        model = kind(MODEL, client)
        agent = Agent("reporter", instructions="Be short.", model=model, tools=[weather])
        assert (await Runner.run(agent, QUESTION)).final_output == ANSWER
        streamed = Runner.run_streamed(agent, QUESTION)
        kinds = {event.type async for event in streamed.stream_events()}
        assert streamed.final_output == ANSWER
        assert "raw_response_event" in kinds
        assert CALLED == [CITY, CITY]
        shaped = Agent("keeper", model=model, output_type=Cat, model_settings=ModelSettings(temperature=0))
        assert (await Runner.run(shaped, QUESTION)).final_output.model_dump() == TOM.model_dump()
        with pytest.raises(openai.BadRequestError) as refused:
            await Runner.run(agent, TOO_LONG)
        assert refused.value.code == "context_length_exceeded"


asyncio.run(main())
