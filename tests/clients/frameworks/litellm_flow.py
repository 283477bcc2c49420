"""litellm: an OpenAI-compatible provider."""

from __future__ import annotations

import json

import litellm
import pytest

from tests.clients.frameworks.flow import (
    ANSWER,
    CITY,
    KEY,
    MODEL,
    QUESTION,
    REPORT,
    TOM,
    TOO_LONG,
    WEATHER,
    Cat,
    base_url,
)

ASKED = {"model": f"openai/{MODEL}", "api_base": base_url(), "api_key": KEY, "num_retries": 0}
MESSAGES = [{"role": "user", "content": QUESTION}]

whole = litellm.completion(**ASKED, messages=MESSAGES, tools=[WEATHER])
(call,) = whole.choices[0].message.tool_calls
assert json.loads(call.function.arguments) == {"city": CITY}
assert whole.choices[0].finish_reason == "tool_calls"

chunks = list(litellm.completion(**ASKED, messages=MESSAGES, tools=[WEATHER], stream=True))
streamed = litellm.stream_chunk_builder(chunks, messages=MESSAGES)
(again,) = streamed.choices[0].message.tool_calls
assert json.loads(again.function.arguments) == {"city": CITY}

history = [
    *MESSAGES,
    whole.choices[0].message.model_dump(),
    {"role": "tool", "tool_call_id": call.id, "content": REPORT},
]
assert litellm.completion(**ASKED, messages=history, tools=[WEATHER]).choices[0].message.content == ANSWER

shaped = litellm.completion(**ASKED, messages=MESSAGES, response_format=Cat)
assert Cat.model_validate_json(shaped.choices[0].message.content) == TOM

with pytest.raises(litellm.ContextWindowExceededError) as refused:
    litellm.completion(**ASKED, messages=[{"role": "user", "content": TOO_LONG}])
