"""Tools: what the model is told, what its answer must be, and how calls come back."""

import json

import pytest

from adasd.text.grammar import GrammarCompiler
from tests.unit.text import tokenizers_for_tests

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "how it is", "parameters": CITY}},
    {"type": "function", "function": {"name": "stop"}},
]
ROME = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
STOP = '<tool_call>\n{"name": "stop", "arguments": {}}\n</tool_call>'
NAMED = {"type": "function", "function": {"name": "weather"}}


async def called(door, says, **fields):
    """The response's choice for an answer with this text."""
    door.backend.says = says
    response = await door.chat("weather?", tools=TOOLS, **fields)
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]


def grammar(door):
    return door.backend.tally.requests[-1].sampling.grammar


def admits(door, text):
    """Whether the newest request's grammar admits the text as a whole answer."""
    tokenizer = door.backend.tokenizer
    matcher = GrammarCompiler(lambda: tokenizer).matcher(grammar(door))
    return tokenizers_for_tests.admits(matcher, tokenizer.encode(text), min(tokenizer.eos_ids))


async def test_a_call_is_written_as_openai_has_it(tool_door):
    choice = await called(tool_door, ROME)
    message = choice["message"]
    assert choice["finish_reason"] == "tool_calls"
    assert message["content"] is None
    (call,) = message["tool_calls"]
    assert call["id"].startswith("call_")
    assert (call["type"], call["function"]["name"]) == ("function", "weather")
    assert json.loads(call["function"]["arguments"]) == {"city": "Rome"}


async def test_text_around_calls_is_content(tool_door):
    message = (await called(tool_door, f"Let me see.\n{ROME}\n{STOP}"))["message"]
    assert message["content"] == "Let me see."
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["weather", "stop"]
    assert len({call["id"] for call in message["tool_calls"]}) == 2


async def test_an_answer_without_a_call_is_an_ordinary_one(tool_door):
    choice = await called(tool_door, "It is warm.")
    assert choice["finish_reason"] == "stop"
    assert choice["message"] == {"role": "assistant", "content": "It is warm.", "refusal": None}


async def test_a_call_cut_off_by_max_tokens_ends_for_length(tool_door):
    tool_door.backend.says = ROME
    response = await tool_door.chat("weather?", tools=TOOLS, max_tokens=8, stop=["</never>"])
    assert "tool_calls" not in response.json()["choices"][0]["message"]


async def test_the_model_is_told_of_the_tools_unless_none_is_wanted(tool_door):
    tokenizer = tool_door.backend.tokenizer
    await called(tool_door, "x")
    assert '"weather"' in tokenizer.decode(tool_door.backend.tally.requests[-1].prompt)
    choice = await called(tool_door, ROME, tool_choice="none")
    assert '"weather"' not in tokenizer.decode(tool_door.backend.tally.requests[-1].prompt)
    assert choice["message"]["content"] == ROME


async def test_deltas_of_a_stream_join_to_the_whole_call(tool_door):
    tool_door.backend.says = f"Hm. {ROME}\n{STOP}"
    messages = [{"role": "user", "content": "weather?"}]
    chunks = await tool_door.chunks(messages=messages, tools=TOOLS)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    calls = [call for delta in deltas for call in delta.get("tool_calls", [])]
    joined = {0: "", 1: ""}
    for call in calls:
        joined[call["index"]] += call["function"]["arguments"]
    assert {i: json.loads(text) for i, text in joined.items()} == {0: {"city": "Rome"}, 1: {}}
    assert [call["function"]["name"] for call in calls if "id" in call] == ["weather", "stop"]
    assert sum(1 for call in calls if call["index"] == 0) > 2  # arguments are streamed
    assert "".join(delta["content"] for delta in deltas) == "Hm."
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert deltas[0]["role"] == "assistant"


async def test_a_delta_has_one_entry_for_each_call(tool_door):
    tool_door.backend.says, tool_door.backend.block_len = f"{ROME}\n{STOP}", 200
    chunks = await tool_door.chunks(messages=[{"role": "user", "content": "weather?"}], tools=TOOLS)
    entries = [chunk["choices"][0]["delta"].get("tool_calls", []) for chunk in chunks]
    assert any(len(calls) > 1 for calls in entries)
    for calls in entries:
        assert len({call["index"] for call in calls}) == len(calls)
    assert any("id" in call and call["function"]["arguments"] for calls in entries for call in calls)


async def test_an_answer_is_a_call_or_follows_the_format(tool_door):
    response = await tool_door.chat("weather?", tools=TOOLS, response_format={"type": "json_object"})
    assert response.status_code == 200, response.text
    assert admits(tool_door, ROME)
    assert admits(tool_door, '{"a": 1}')
    assert not admits(tool_door, "hello")
    await tool_door.chat("weather?", tools=TOOLS, guided_regex="yes|no", tool_choice="required")
    assert admits(tool_door, ROME)
    assert not admits(tool_door, "yes")


@pytest.mark.parametrize("num_tokens", [1, 8, 16, 24, 30])
@pytest.mark.parametrize("choice", ["required", NAMED])
async def test_a_forced_call_that_is_cut_ends_for_length_and_shows_no_markup(tool_door, num_tokens, choice):
    entry = await called(tool_door, ROME, tool_choice=choice, max_tokens=num_tokens)
    assert not entry["message"]["content"]
    if num_tokens < 30:
        assert entry["finish_reason"] != "tool_calls"


async def test_a_stop_text_inside_a_forced_call_is_no_call(tool_door):
    entry = await called(tool_door, ROME, tool_choice="required", stop=["Rome"])
    assert (entry["finish_reason"], entry["stop_reason"]) == ("stop", "Rome")
    assert not entry["message"]["content"]


async def test_a_function_without_parameters_takes_none(tool_door):
    await called(tool_door, STOP, tool_choice="required")
    assert admits(tool_door, STOP)
    assert not admits(tool_door, STOP.replace("{}", '{"a": 1}'))


async def test_a_strict_function_takes_nothing_that_it_does_not_name(tool_door):
    for strict in (True, False):
        tools = [{"type": "function", "function": {"name": "weather", "parameters": CITY, "strict": strict}}]
        await tool_door.chat("weather?", tools=tools, tool_choice="required")
        assert admits(tool_door, ROME)
        assert admits(tool_door, ROME.replace('"Rome"', '"Rome", "a": 1')) is not strict


async def test_further_keys_of_a_tool_are_tolerated_and_kept_from_the_model(tool_door):
    marked = [{**tool, "cache_control": {"type": "ephemeral"}} for tool in TOOLS]
    response = await tool_door.chat("weather?", tools=marked)
    assert response.status_code == 200
    prompt = tool_door.backend.tokenizer.decode(tool_door.backend.tally.requests[-1].prompt)
    assert "weather" in prompt
    assert "cache_control" not in prompt


async def test_parallel_calls_can_be_switched_off(tool_door):
    message = (await called(tool_door, f"{ROME}\n{STOP}", parallel_tool_calls=False))["message"]
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["weather"]


async def test_auto_leaves_the_answer_free_unless_a_function_is_strict(tool_door):
    await called(tool_door, "x")
    assert grammar(tool_door) is None
    strict = [TOOLS[0] | {"function": {**TOOLS[0]["function"], "strict": True}}, TOOLS[1]]
    await tool_door.chat("weather?", tools=strict)
    assert admits(tool_door, "hello")
    assert admits(tool_door, f"So: {ROME}")
    assert not admits(tool_door, ROME.replace("city", "town"))


async def test_required_admits_calls_alone(tool_door):
    await called(tool_door, ROME, tool_choice="required")
    assert admits(tool_door, f"{ROME}\n{STOP}")
    assert not admits(tool_door, "hello")
    await called(tool_door, ROME, tool_choice="required", parallel_tool_calls=False)
    assert not admits(tool_door, f"{ROME}\n{STOP}")


async def test_a_named_function_is_the_only_one(tool_door):
    choice = await called(tool_door, ROME, tool_choice=NAMED)
    assert choice["finish_reason"] == "tool_calls"
    assert admits(tool_door, ROME)
    assert not admits(tool_door, STOP)
    assert not admits(tool_door, f"{ROME}\n{ROME}")


async def test_calls_and_results_go_back_into_the_conversation(tool_door):
    call = (await called(tool_door, ROME))["message"]["tool_calls"][0]
    history = [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": "21 degrees"},
    ]
    tool_door.backend.says = "It has 21 degrees."
    response = await tool_door.post("/v1/chat/completions", {"messages": history, "tools": TOOLS})
    assert response.json()["choices"][0]["message"]["content"] == "It has 21 degrees."
    assert "21 degrees" in tool_door.backend.tokenizer.decode(tool_door.backend.tally.requests[-1].prompt)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [TOOLS[0], TOOLS[0]]}, "tools.1.function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "description": "a\0b"}}]},
            "tools.0.function.description",
        ),
        (
            {"tool_choice": {"type": "function", "function": {"name": "other"}}},
            "tool_choice.function.name",
        ),
        ({"tool_choice": "required", "ignore_eos": True}, "ignore_eos"),
        ({"guided_grammar": 'start: "a" }'}, "guided_grammar"),
        (
            {
                "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "banana"}}}],
                "tool_choice": "required",
            },
            "tools",
        ),
    ],
    ids=str,
)
async def test_tools_that_cannot_be_are_refused(tool_door, fields, param):
    response = await tool_door.chat(**{"tools": TOOLS, **fields})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


async def test_a_format_goes_with_tools_that_are_not_to_be_called(tool_door):
    response = await tool_door.chat(tools=TOOLS, tool_choice="none", response_format={"type": "json_object"})
    assert response.status_code == 200


async def test_an_unknown_way_of_writing_calls_can_be_forced_but_not_read(tool_door):
    tool_door.backend.tokenizer.tool_form = None
    assert (await tool_door.chat(tools=TOOLS)).json()["error"]["param"] == "tool_choice"
    assert (await called(tool_door, ROME, tool_choice="required"))["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("arguments", ['{"text": "\\ud83d"}', 500 * '{"a":' + "1" + 500 * "}"])
async def test_arguments_that_no_template_can_take_are_refused_by_name(tool_door, arguments):
    """They are JSON in a string, so what reads the body does not see them."""
    call = {"id": "c", "type": "function", "function": {"name": "stop", "arguments": arguments}}
    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "tool_calls": [call]}]
    response = await tool_door.post("/v1/chat/completions", {"messages": messages, "tools": TOOLS})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == "messages.1.tool_calls.0.function.arguments"
