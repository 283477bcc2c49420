"""llama-index: an OpenAI-like model."""

from __future__ import annotations

import openai
import pytest
from llama_index.core.llms import ChatMessage, MessageRole
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

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
    return REPORT


TOOL = FunctionTool.from_defaults(weather)
model = OpenAILike(
    model=MODEL,
    api_base=base_url(),
    api_key=KEY,
    is_chat_model=True,
    is_function_calling_model=True,
    max_retries=0,
)
whole = model.chat_with_tools([TOOL], user_msg=QUESTION)
*_, streamed = model.stream_chat_with_tools([TOOL], user_msg=QUESTION)
for response in (whole, streamed):
    (call,) = model.get_tool_calls_from_response(response)
    assert (call.tool_name, call.tool_kwargs) == ("weather", {"city": CITY}), call
result = ChatMessage(role=MessageRole.TOOL, content=REPORT, additional_kwargs={"tool_call_id": call.tool_id})
history = [ChatMessage(role=MessageRole.USER, content=QUESTION), whole.message, result]
assert model.chat(history).message.content == ANSWER
assert model.as_structured_llm(Cat).complete(QUESTION).raw == TOM
with pytest.raises(openai.BadRequestError) as refused:
    model.complete(TOO_LONG)
assert refused.value.code == "context_length_exceeded"
