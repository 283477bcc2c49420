"""``/v1/responses``: the same answers as chat, in the shapes of OpenAI's newer API."""

import json

import openai
import pydantic
import pytest
from openai.types.responses import Response, ResponseStreamEvent

from adasd.text.tokenizer import Tokenizer
from services.gateway.http.choice_stream import ChoiceDelta
from services.gateway.http.responses.output_items import OutputItems
from tests.unit.gateway.conftest import opened
from tests.unit.gateway.fake_backend import TOKENIZER, FakeBackend
from tests.unit.gateway.test_tools import CITY, ROME, STOP, admits, grammar
from tests.unit.text.tokenizers_for_tests import TOOL_TEMPLATE, byte_level

PATH = "/v1/responses"
HELLO = "the cat sat on the mat"
EVENT = pydantic.TypeAdapter(ResponseStreamEvent)
TOOLS = [
    {"type": "function", "name": "weather", "description": "how it is", "parameters": CITY},
    {"type": "function", "name": "stop"},
]


async def respond(door, given=HELLO, **fields):
    """The response, checked against OpenAI's own model of it."""
    response = await door.post(PATH, {"input": given, **fields})
    assert response.status_code == 200, response.text
    Response.model_validate(response.json(), strict=True)
    return response.json()


async def stream(door, given=HELLO, **fields):
    """The events of a stream, each checked against OpenAI's own model, numbered from 0."""
    response = await door.post(PATH, {"input": given, "stream": True, **fields})
    assert response.status_code == 200, response.text
    *blocks, rest = response.text.split("\n\n")
    assert rest == ""
    events = []
    for number, block in enumerate(blocks):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        EVENT.validate_python(event)
        assert (event["type"], event["sequence_number"]) == (name.removeprefix("event: "), number)
        events.append(event)
    return events


def kinds(events):
    """The types without their prefix; deltas in a row count once."""
    short = [event["type"].removeprefix("response.") for event in events]
    return [kind for i, kind in enumerate(short) if not (kind.endswith("delta") and short[i - 1] == kind)]


async def test_a_text_is_answered_as_by_chat(door):
    response = await respond(door, instructions="be short", metadata={"a": "b"}, temperature=0.5, seed=3)
    chat = [{"role": "system", "content": "be short"}, {"role": "user", "content": HELLO}]
    await door.post("/v1/chat/completions", {"messages": chat, "temperature": 0.5, "seed": 3})
    ours, theirs = door.backend.tally.requests
    assert (ours.prompt, ours.sampling) == (theirs.prompt, theirs.sampling)
    (message,) = response["output"]
    assert HELLO in message["content"][0]["text"]
    assert (message["role"], message["status"]) == ("assistant", "incomplete")
    assert (response["status"], response["incomplete_details"]) == (
        "incomplete",
        {"reason": "max_output_tokens"},
    )
    assert (response["metadata"], response["instructions"]) == ({"a": "b"}, "be short")
    assert (response["temperature"], response["top_p"], response["store"]) == (0.5, 1.0, False)
    usage = response["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] > 0
    assert usage["input_tokens_details"]["cached_tokens"] == 2
    assert response["metrics"]["speculative_decoding"]["num_spec_steps"] > 0
    assert response["speculation"]["mode"] == "exact"


async def test_the_events_of_a_text_come_in_order_and_add_up(door):
    door.backend.says = HELLO
    events = await stream(door)
    message = ["output_item.added", "content_part.added", "output_text.delta", "output_text.done"]
    end = ["content_part.done", "output_item.done", "completed"]
    assert kinds(events) == ["created", "in_progress", *message, *end]
    deltas = [event["delta"] for event in events if event["type"].endswith("output_text.delta")]
    assert len(deltas) > 2  # one for each step that showed text
    whole = await respond(door)
    last = events[-1]["response"]
    assert "".join(deltas) == HELLO == last["output"][0]["content"][0]["text"]
    changing = ("id", "created_at", "output")
    assert {k: v for k, v in last.items() if k not in changing} == {
        k: v for k, v in whole.items() if k not in changing
    }
    assert len({event["item_id"] for event in events if "item_id" in event} | {last["output"][0]["id"]}) == 1
    assert events[0]["response"]["output"] == []


async def test_an_answer_that_max_output_tokens_cuts_is_incomplete(door):
    events = await stream(door, max_output_tokens=3)
    assert kinds(events)[-1] == "incomplete"
    assert events[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert door.backend.tally.requests[-1].sampling.max_tokens == 3


async def test_a_stop_text_completes_the_answer(door):
    response = await respond(door, stop="sat")
    assert (response["status"], response["stop_reason"]) == ("completed", "sat")


async def test_a_failure_in_the_stream_is_the_last_event(door):
    events = await stream(door, "break the cat sat on the mat and the dog ate the hat")
    failed = events[-1]
    assert failed["type"] == "response.failed"
    assert failed["response"]["status"] == "failed"
    assert failed["response"]["error"]["code"] == "server_error"
    assert "unplugged" in failed["response"]["error"]["message"]


async def test_a_refusal_before_the_first_event_has_its_status(door):
    response = await door.post(PATH, {"input": "overload", "stream": True})
    assert (response.status_code, response.headers["retry-after"]) == (429, "3")


@pytest.mark.parametrize("choice", ["auto", "required", {"type": "function", "name": "weather"}], ids=str)
async def test_calls_are_items_of_their_own(tool_door, choice):
    tool_door.backend.says = ROME
    response = await respond(tool_door, tools=TOOLS, tool_choice=choice)
    (call,) = response["output"]
    assert (call["type"], call["name"], call["status"]) == ("function_call", "weather", "completed")
    assert json.loads(call["arguments"]) == {"city": "Rome"}
    assert response["status"] == "completed"
    assert response["tool_choice"] == choice
    assert [tool["name"] for tool in response["tools"]] == ["weather", "stop"]
    if choice != "auto":
        assert admits(tool_door, ROME)
        assert not admits(tool_door, "hello")


@pytest.mark.parametrize("block_len", [1, 7, 300])
async def test_text_and_calls_are_streamed_one_item_after_the_other(tool_door, block_len):
    tool_door.backend.says, tool_door.backend.block_len = f"Hm. {ROME}\n{STOP} Well.", block_len
    events = await stream(tool_door, tools=TOOLS)
    output = events[-1]["response"]["output"]
    named = [item.get("name", "message") for item in output]
    assert [name for name in named if name != "message"] == ["weather", "stop"]
    said = "".join(item["content"][0]["text"] for item in output if item["type"] == "message")
    assert said.split() == ["Hm.", "Well."]
    for index, item in enumerate(output):
        about = [event for event in events if event.get("output_index") == index]
        assert (about[0]["type"], about[-1]["type"]) == (
            "response.output_item.added",
            "response.output_item.done",
        )
        assert about[-1]["item"] == item
        deltas = "".join(event["delta"] for event in about if event["type"].endswith("delta"))
        assert deltas == (item["arguments"] if "name" in item else item["content"][0]["text"])
    indices = [event["output_index"] for event in events if "output_index" in event]
    assert indices == sorted(indices)


async def test_a_call_that_is_cut_is_incomplete(tool_door):
    tool_door.backend.says = ROME
    for choice in ("auto", "required"):
        response = await respond(tool_door, tools=TOOLS, tool_choice=choice, stop="Rome")
        assert response["output"][-1]["type"] == "function_call"
        assert (response["status"], response["output"][-1]["status"]) == ("incomplete", "incomplete")
    tool_door.backend.says = None
    response = await respond(tool_door, "the cat", max_output_tokens=2)
    assert response["output"][-1]["status"] == "incomplete"


async def test_the_output_goes_back_as_input(tool_door):
    tool_door.backend.says = f"Let me see. {ROME}\n{STOP}"
    output = (await respond(tool_door, tools=TOOLS))["output"]
    calls = [item for item in output if item["type"] == "function_call"]
    results = [
        {"type": "function_call_output", "call_id": calls[0]["call_id"], "output": "21 degrees"},
        {
            "type": "function_call_output",
            "call_id": calls[1]["call_id"],
            "output": [{"type": "input_text", "text": "done"}],
        },
    ]
    begun = {"role": "user", "content": [{"type": "input_text", "text": "weather?"}]}
    tool_door.backend.says = "It has 21 degrees."
    await respond(tool_door, [begun, *output, *results], tools=TOOLS)
    history = [
        {"role": "user", "content": "weather?"},
        {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [
                {"type": "function", "function": {"name": call["name"], "arguments": call["arguments"]}}
                for call in calls
            ],
        },
        {"role": "tool", "tool_call_id": calls[0]["call_id"], "content": "21 degrees"},
        {"role": "tool", "tool_call_id": calls[1]["call_id"], "content": "done"},
    ]
    chat_tools = [
        {"type": "function", "function": {name: tool[name] for name in tool if name != "type"}}
        for tool in TOOLS
    ]
    await tool_door.post("/v1/chat/completions", {"messages": history, "tools": chat_tools})
    assert tool_door.backend.tally.requests[-1].prompt == tool_door.backend.tally.requests[-2].prompt


async def test_the_text_can_have_a_schema(tool_door):
    form = {"type": "json_schema", "name": "cat", "schema": CITY, "strict": True}
    response = await respond(tool_door, text={"format": form})
    assert response["text"]["format"] == form
    assert json.loads(grammar(tool_door).text)["additionalProperties"] is False
    await respond(tool_door, text={"format": {"type": "json_object"}})
    assert admits(tool_door, '{"a": 1}')
    await respond(tool_door, text={"format": {"type": "text"}, "verbosity": "medium"})
    assert grammar(tool_door) is None


@pytest.mark.parametrize("streamed", [False, True])
async def test_logprobs_stand_beside_the_text(door, streamed):
    door.backend.says = HELLO
    asked = {"top_logprobs": 2, "include": ["message.output_text.logprobs"]}
    if streamed:
        events = await stream(door, **asked)
        listed = [entry for event in events for entry in event.get("logprobs", ()) if "delta" in event]
        response = events[-1]["response"]
    else:
        response = await respond(door, **asked)
        listed = response["output"][0]["content"][0]["logprobs"]
    assert b"".join(bytes(entry["bytes"]) for entry in listed).decode() == HELLO
    assert all(len(entry["top_logprobs"]) == 2 for entry in listed)
    assert response["top_logprobs"] == 2


async def test_our_extensions_are_here_too(door):
    asked = {
        "return_token_provenance": True,
        "return_prediction_tokens": True,
        "speculation": {"mode": "off"},
    }
    response = await respond(door, **asked)
    text = response["output"][0]["content"][0]["text"]
    assert "".join(token["text"] for token in response["adasd"]["tokens"]) == text
    assert response["speculation"]["mode"] == "off"
    assert response["usage"]["output_tokens_details"]["accepted_prediction_tokens"] == 0
    last = (await stream(door, **asked))[-1]["response"]
    assert last["adasd"] == response["adasd"]


async def test_what_has_no_effect_is_named(door):
    thought = {"type": "reasoning", "id": "rs_1", "summary": []}
    body = {
        "input": [{"role": "user", "content": HELLO}, thought],
        "include": ["reasoning.encrypted_content"],
        "unheard_of": 1,
        "store": False,
        "service_tier": "auto",
    }
    response = await door.post(PATH, body)
    assert response.status_code == 200, response.text
    assert (
        response.headers["x-adasd-ignored-fields"]
        == "unheard_of, input.1, include.reasoning.encrypted_content"
    )


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"store": True}, "store"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [*TOOLS, {"type": "function", "name": "a b"}]}, "tools.2.name"),
        ({"tools": [TOOLS[0], TOOLS[0]]}, "tools.1.name"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "name": "other"}}, "tool_choice.name"),
        ({"tools": TOOLS, "tool_choice": {"type": "web_search"}}, "tool_choice.type"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"max_output_tokens": -1}, "max_output_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"top_logprobs": 21}, "top_logprobs"),
        (
            {"text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": "x"}}}},
            "text.format.schema",
        ),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"reasoning": {"effort": "high"}}, "reasoning.effort"),
        ({"n": 2}, "n"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": "a\0b"}, "input"),
        ({"input": "cat " * 3000}, "input"),
        ({"input": "cat", "instructions": "a\0b"}, "instructions"),
        ({"input": [5]}, "input.0"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input.0.type"),
        ({"input": [{"role": "king", "content": "x"}]}, "input.0.role"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input.0.content.0.type",
        ),
        (
            {"instructions": "x", "input": [{"type": "function_call", "call_id": "c", "arguments": "{}"}]},
            "input.0.name",
        ),
        (
            {"input": [{"role": "user", "content": "x"}, {"type": "function_call_output", "call_id": "c"}]},
            "input.1.output",
        ),
    ],
    ids=str,
)
async def test_what_cannot_be_is_refused_by_its_name(tool_door, fields, param):
    response = await tool_door.post(PATH, {"input": "weather?", **fields})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param
    assert "messages" not in error["message"]


def test_a_piece_may_end_a_call_speak_and_begin_another():
    made = OutputItems(TOKENIZER)
    begun = {"index": 0, "id": "call_0", "type": "function", "function": {"name": "f", "arguments": "{"}}
    made.push(ChoiceDelta("", 1, None, calls=(begun,)))
    rest = {"index": 0, "function": {"arguments": "}"}}
    events = made.push(ChoiceDelta("so", 1, None, calls=(rest, {**begun, "index": 1, "id": "call_1"})))
    assert [item["type"] for item in made.items("in_progress")] == [
        "function_call",
        "message",
        "function_call",
    ]
    assert made.items("in_progress")[0]["arguments"] == "{}"
    assert [event["output_index"] for event in events] == sorted(event["output_index"] for event in events)


class Cat(pydantic.BaseModel):
    name: str
    lives: int


async def test_openais_client_creates_streams_and_parses(served):
    served.backend.says = '{"name": "Tom", "lives": 9}'
    async with openai.AsyncOpenAI(base_url=f"{served.address}/v1", api_key="x", max_retries=0) as client:
        asked = {"model": "fake-model", "input": HELLO}
        made = await client.responses.create(**asked, extra_body={"speculation": {"mode": "exact"}})
        assert made.output_text == served.backend.says
        assert made.model_extra["speculation"]["mode"] == "exact"
        parsed = await client.responses.parse(**asked, text_format=Cat)
        assert parsed.output_parsed == Cat(name="Tom", lives=9)
        async with client.responses.stream(**asked, text_format=Cat) as streamed:
            seen = {event.type async for event in streamed}
            final = await streamed.get_final_response()
        assert final.output_parsed == Cat(name="Tom", lives=9)
        assert {"response.output_text.delta", "response.completed"} <= seen
        with pytest.raises(openai.BadRequestError) as refused:
            await client.responses.create(**asked, previous_response_id="resp_1")
        assert refused.value.param == "previous_response_id"
        with pytest.raises(openai.BadRequestError) as long:
            await client.responses.create(model="fake-model", input="cat " * 3000)
        assert long.value.code == "context_length_exceeded"


async def test_openais_client_parses_calls():
    backend = FakeBackend(tokenizer=Tokenizer(byte_level(TOOL_TEMPLATE)), context_len=1024)
    backend.says = ROME
    tools = [{**TOOLS[0], "strict": True, "parameters": {**CITY, "additionalProperties": False}}]
    async with opened(backend) as served, openai.AsyncOpenAI(
        base_url=f"{served.address}/v1", api_key="x", max_retries=0
    ) as client:  # fmt: skip
        parsed = await client.responses.parse(model="fake-model", input="weather?", tools=tools)
        async with client.responses.stream(model="fake-model", input="weather?", tools=tools) as streamed:
            final = await streamed.get_final_response()
    for response in (parsed, final):
        (call,) = response.output
        assert call.parsed_arguments == {"city": "Rome"}
