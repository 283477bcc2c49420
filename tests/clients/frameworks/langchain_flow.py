"""langchain-openai: chat completions and responses."""

from __future__ import annotations

import openai
import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

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


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    assert city == CITY
    return REPORT


for use_responses in (False, True):
    model = ChatOpenAI(
        model=MODEL, base_url=base_url(), api_key=KEY, max_retries=0, use_responses_api=use_responses
    )
    able, asked = model.bind_tools([weather]), [HumanMessage(QUESTION)]
    whole = able.invoke(asked)
    first, *rest = able.stream(asked)
    streamed = sum(rest, first)
    for message in (whole, streamed):
        (call,) = message.tool_calls
        assert (call["name"], call["args"]) == ("weather", {"city": CITY}), call
    result = ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])
    assert able.invoke([*asked, streamed, result]).text == ANSWER
    assert model.with_structured_output(Cat, method="json_schema").invoke(QUESTION) == TOM
    with pytest.raises(openai.BadRequestError) as refused:
        model.invoke(TOO_LONG)
    assert refused.value.code == "context_length_exceeded"
