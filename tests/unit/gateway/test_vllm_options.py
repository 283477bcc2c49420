"""Options that vLLM's clients know: prompt_logprobs, bad_words, continue_final_message, the model's own defaults."""

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest

from adasd.errors import ConfigError, Overloaded
from adasd.requests import SET_BY_MODELS, GenerationRequest, SamplingParams
from services.gateway.http.turns import Turns
from services.orchestrator.sampling_defaults import sampling_defaults
from tests.unit.gateway.conftest import inside
from tests.unit.gateway.fake_backend import FakeBackend, logprob_of
from tests.unit.gateway.test_tools import ROME, TOOLS, admits

HELLO = "the cat sat on the mat"
BEGUN = [{"role": "user", "content": HELLO}, {"role": "assistant", "content": "the dog"}]


# ------------------------------------------------------------------------- prompt_logprobs


def checked_prompt(door, listed):
    """Whether the list says of the last request's prompt what the backend said."""
    text, prompt = door.backend.tokenizer, door.backend.tally.requests[-1].prompt
    assert listed[0] is None
    assert len(listed) == len(prompt)
    for token_id, entry in zip(prompt[1:], listed[1:], strict=True):
        said = logprob_of(token_id, 2)
        assert list(map(int, entry)) == [likely for likely, _ in said.top]
        named = text.token_bytes(token_id).decode("utf-8", "replace")
        assert entry[str(token_id)] == {"logprob": said.logprob, "rank": 1, "decoded_token": named}
        assert [one["rank"] for one in entry.values()] == [1, 2]


async def test_prompt_logprobs_have_vllms_shapes(door):
    body = (await door.chat(HELLO, prompt_logprobs=2)).json()
    checked_prompt(door, body["prompt_logprobs"])
    body = (await door.post("/v1/completions", {"prompt": HELLO, "prompt_logprobs": 2, "n": 2})).json()
    for choice in body["choices"]:
        checked_prompt(door, choice["prompt_logprobs"])
    assert body["choices"][0]["logprobs"] is None
    assert "prompt_logprobs" not in (await door.chat(HELLO)).json()


async def test_a_prompt_can_be_scored_without_an_answer(door):
    body = (
        await door.post("/v1/completions", {"prompt": HELLO, "prompt_logprobs": 2, "max_tokens": 0})
    ).json()
    checked_prompt(door, body["choices"][0]["prompt_logprobs"])
    assert (body["choices"][0]["text"], body["usage"]["completion_tokens"]) == ("", 0)


# ------------------------------------------------------------------------- bad_words


async def test_bad_words_never_stand_in_the_answer(tool_door):
    await tool_door.chat(bad_words=["bad", "a/b (c)"])
    for text in ("hello", "ba d", "", "a/b"):
        assert admits(tool_door, text)
    for text in ("bad", "so bad it is", "x a/b (c)"):
        assert not admits(tool_door, text)
    tool_door.backend.says = ROME
    body = (await tool_door.chat(bad_words=["Paris"], tools=TOOLS)).json()
    assert body["choices"][0]["finish_reason"] == "tool_calls"
    assert not admits(tool_door, ROME.replace("Rome", "Paris"))
    await tool_door.chat(bad_words=[])
    assert tool_door.backend.tally.requests[-1].sampling.grammar is None


# ------------------------------------------------------------------------- continue_final_message


async def test_the_answer_continues_the_last_message(door):
    await door.post("/v1/chat/completions", {"messages": BEGUN, "continue_final_message": True})
    text = door.backend.tokenizer
    prompt = text.decode(door.backend.tally.requests[-1].prompt, skip_special_tokens=False)
    assert prompt == f"<|user|>{HELLO}<|end|><|assistant|>the dog"
    asked = {"messages": BEGUN, "continue_final_message": True, "add_generation_prompt": False}
    assert (await door.post("/v1/chat/completions", asked)).status_code == 200
    tokens = (await door.post("/tokenize", asked)).json()["tokens"]
    assert tuple(tokens) == door.backend.tally.requests[-1].prompt


async def test_a_control_token_in_what_is_continued_is_text(door):
    messages = [BEGUN[0], {"role": "assistant", "content": "a <|end|> b"}]
    await door.post("/v1/chat/completions", {"messages": messages, "continue_final_message": True})
    prompt = door.backend.tally.requests[-1].prompt
    assert list(prompt).count(door.backend.tokenizer.encode("<|end|>")[0]) == 1


# ------------------------------------------------------------------------- what contradicts itself


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prediction": {"type": "content"}}, "prediction.content"),
        ({"prediction": {"type": "content", "content": 5}}, "prediction.content"),
        (
            {"prediction": {"type": "content", "content": "x"}, "speculation": {"draft": "model"}},
            "prediction",
        ),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        ({"bad_words": [""]}, "bad_words.0"),
        ({"bad_words": ["a"], "guided_regex": "b"}, "guided_regex"),
        ({"bad_words": ["a"], "min_tokens": 2}, "min_tokens"),
        ({"bad_words": ["a"], "tools": TOOLS, "tool_choice": "required"}, "bad_words"),
        ({"continue_final_message": True}, "continue_final_message"),
        (
            {"messages": BEGUN, "continue_final_message": True, "add_generation_prompt": True},
            "add_generation_prompt",
        ),
        ({"add_generation_prompt": False}, "add_generation_prompt"),
    ],
    ids=str,
)
async def test_what_contradicts_itself_is_refused(tool_door, fields, param):
    response = await tool_door.post("/v1/chat/completions", {"messages": BEGUN[:1], **fields})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


# ------------------------------------------------------------------------- predicted outputs


@pytest.mark.parametrize(
    "content", [HELLO, [{"type": "text", "text": HELLO[:9]}, {"type": "text", "text": HELLO[9:]}]]
)
async def test_a_prediction_is_what_look_ups_draft_from(door, content):
    response = await door.chat(prediction={"type": "content", "content": content})
    request = door.backend.tally.requests[-1]
    assert door.backend.tokenizer.decode(request.prediction) == HELLO
    assert request.speculation.draft == "suffix"
    assert response.json()["usage"]["completion_tokens_details"]["accepted_prediction_tokens"] > 0
    assert "x-adasd-ignored-fields" not in response.headers


async def test_a_prediction_without_drafting_is_reported(door):
    off = {"prediction": {"type": "content", "content": HELLO}, "speculation": {"mode": "off"}}
    response = await door.chat(**off)
    assert response.headers["x-adasd-ignored-fields"] == "prediction"
    assert door.backend.tally.requests[-1].prediction == ()


# ------------------------------------------------------------------------- the model's defaults


async def test_what_a_request_leaves_out_the_model_says(door):
    door.backend.sampling_defaults = {"temperature": 0.6, "top_k": 20}
    await door.chat(temperature=1.0)
    sampling = door.backend.tally.requests[-1].sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (1.0, 20, 1.0)
    await door.post("/v1/responses", {"input": HELLO})
    assert door.backend.tally.requests[-1].sampling.temperature == 0.6
    (model,) = (await door.client.get("/v1/models")).json()["data"]
    assert model["adasd"]["sampling_defaults"] == {"temperature": 0.6, "top_k": 20}


def test_defaults_are_read_from_the_models_file(tmp_path):
    assert sampling_defaults(str(tmp_path)) == {}
    file = tmp_path / "generation_config.json"
    file.write_text(
        '{"temperature": 0.7, "top_k": 20, "top_p": null, "max_new_tokens": 5, "do_sample": true}'
    )
    assert sampling_defaults(str(tmp_path)) == {"temperature": 0.7, "top_k": 20, "max_tokens": 5}
    assert {*SET_BY_MODELS} <= set(SamplingParams.__dataclass_fields__)


async def test_the_models_length_holds_where_a_request_sets_none_and_never_beyond_the_context(door):
    def most():
        return door.backend.tally.requests[-1].sampling.max_tokens

    door.backend.sampling_defaults = {"max_tokens": 5}
    await door.chat()
    assert most() == 5
    await door.chat(max_tokens=9)
    assert most() == 9
    await door.post("/v1/responses", {"input": HELLO})
    assert most() == 5
    door.backend.sampling_defaults = {"max_tokens": 10_000}
    assert (await door.chat()).status_code == 200
    assert most() + len(door.backend.tally.requests[-1].prompt) == door.backend.context_len


def test_a_length_below_one_says_what_to_do(tmp_path):
    (tmp_path / "generation_config.json").write_text('{"max_new_tokens": 0}')
    with pytest.raises(ConfigError, match="max_new_tokens 0; correct it"):
        sampling_defaults(str(tmp_path))


@pytest.mark.parametrize("value", ["7", '"hot"', "true"])
def test_a_default_that_cannot_be_says_what_to_do(tmp_path, value):
    (tmp_path / "generation_config.json").write_text(f'{{"temperature": {value}}}')
    with pytest.raises(ConfigError, match="generation_config: none"):
        sampling_defaults(str(tmp_path))


# ------------------------------------------------------------------------- more answers than slots


class Narrow(FakeBackend):
    """A backend that refuses more than ``num_slots`` answers at a time."""

    def __init__(self, num_slots, **options):
        super().__init__(**options)
        self.num_slots, self.most = num_slots, 0

    async def generate(self, request):
        if self.tally.running >= self.num_slots:
            raise Overloaded("every slot is taken")
        async with aclosing(super().generate(request)) as events:
            async for event in events:
                self.most = max(self.most, self.tally.running)
                yield event


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("num_slots", [1, 3])
async def test_more_answers_than_slots_take_turns(num_slots, stream):
    async with inside(Narrow(num_slots, step_s=0.001)) as door:
        asked = {"prompt": HELLO, "n": 8}
        if stream:
            chunks = await door.chunks("/v1/completions", **asked)
            ended = [one["index"] for chunk in chunks for one in chunk["choices"] if one["finish_reason"]]
            assert sorted(ended) == list(range(8))
        else:
            body = (await door.post("/v1/completions", asked)).json()
            assert [choice["text"] for choice in body["choices"]] == [HELLO] * 8
        assert door.backend.most == num_slots


async def test_without_any_slot_the_request_is_refused():
    async with inside(Narrow(0)) as door:
        response = await door.post("/v1/completions", {"prompt": HELLO, "n": 3})
        assert response.status_code == 429


async def test_an_answer_that_waits_for_its_turn_can_be_left():
    backend = Narrow(1, step_s=3600.0)
    turns = Turns(backend)
    one = GenerationRequest("a", backend.tokenizer.encode(HELLO), SamplingParams())
    first, second = turns.answer(one), turns.answer(replace(one, request_id="b"))
    begun = asyncio.create_task(anext(first))
    await asyncio.sleep(0)
    waiting = asyncio.create_task(anext(second))
    await asyncio.sleep(0.01)
    for task in (begun, waiting):
        task.cancel()
    await asyncio.gather(begun, waiting, return_exceptions=True)
    assert backend.tally.running == 0
