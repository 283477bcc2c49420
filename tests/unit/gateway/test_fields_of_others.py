"""Fields of other clients and servers: honoured, refused, or known to change no answer. None is unheard of."""

from __future__ import annotations

import pytest
from openai.types import completion_create_params as text_params
from openai.types.chat import completion_create_params as chat_params
from openai.types.responses import response_create_params as responses_params

from services.gateway.http.responses.as_chat import REFUSED, WITHOUT_EFFECT
from services.gateway.http.responses.body import RESPONSES_BODY
from services.gateway.http.schema import CHAT_BODY, COMPLETION_BODY
from services.gateway.http.unsupported import INSTEAD, NEUTRAL, SILENT

OF_OPENAI = [
    (chat_params.CompletionCreateParamsBase, CHAT_BODY, ()),
    (text_params.CompletionCreateParamsBase, COMPLETION_BODY, ()),
    (responses_params.ResponseCreateParamsBase, RESPONSES_BODY, {*REFUSED, *WITHOUT_EFFECT}),
]


@pytest.mark.parametrize(("params", "body", "further"), OF_OPENAI, ids=["chat", "text", "responses"])
def test_every_field_that_openais_client_can_send_is_decided(params, body, further):
    known = {*body.model_fields, *NEUTRAL, *SILENT, *further}
    assert set(params.__annotations__) - known == set()


CHANGE_ANSWERS = {
    "moderation": {"policy": {}},
    "thinking": {"type": "disabled"},
    "reasoning": {"effort": "low"},
    "format": "json",
    # vLLM
    "thinking_token_budget": 5,
    "repetition_detection": {"max_pattern_size": 4},
    "watermarking": True,
    "logprob_token_ids": [1, 2],
    "return_token_ids": True,
    # llama.cpp
    "n_cmpl": 2,
    "n_probs": 3,
    "t_max_predict_ms": 100,
    "thinking_budget_tokens": 5,
    "parse_tool_calls": False,
    # SGLang
    "regex": "a",
    "ebnf": 'root ::= "a"',
    "lora_path": "x",
    "min_new_tokens": 4,
}


@pytest.mark.parametrize("name", CHANGE_ANSWERS)
async def test_a_field_that_would_change_the_answer_is_refused_by_name(door, name):
    response = await door.chat(**{name: CHANGE_ANSWERS[name]})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, name)
    assert INSTEAD.get(name, "leave it out") in error["message"]


async def test_their_neutral_values_are_welcome(door):
    neutral = {name: NEUTRAL[name][0] for name in CHANGE_ANSWERS if NEUTRAL[name]}
    response = await door.chat(**neutral, prompt_cache_retention="24h")
    assert response.status_code == 200, response.text
    assert "x-adasd-ignored-fields" not in response.headers
