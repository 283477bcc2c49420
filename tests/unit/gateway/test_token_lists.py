"""Log-probabilities and the echoed prompt, as OpenAI's clients and lm-eval read them."""

import pytest

from adasd.results import TokenLogprob
from tests.unit.gateway.fake_backend import TOKENIZER, logprob_of

PROMPT = "the cat sat on the mat"
IDS = TOKENIZER.encode(PROMPT)
HALF = "naïve 🙂"  # its characters are spread over several tokens


async def complete(door, **fields):
    response = await door.post("/v1/completions", {"prompt": PROMPT, **fields})
    assert response.status_code == 200, response.text
    return response.json()


async def test_chat_lists_every_token_with_bytes_and_the_likeliest(door):
    choice = (await door.chat(HALF, logprobs=True, top_logprobs=2)).json()["choices"][0]
    listed = choice["logprobs"]["content"]
    ids = door.backend.tally.requests[0].prompt
    answer = [i for i in ids if i not in TOKENIZER.eos_ids]
    assert [entry["logprob"] for entry in listed] == [logprob_of(i, 0).logprob for i in answer]
    assert [len(entry["top_logprobs"]) for entry in listed] == [2] * len(answer)
    shown = b"".join(
        bytes(e["bytes"])
        for e, i in zip(listed, answer, strict=True)
        if i not in TOKENIZER._spelling._added  # the template's own tokens are not shown as text
    )
    assert shown.decode() == choice["message"]["content"]
    assert "\\xf0" in "".join(entry["token"] for entry in listed)  # a part of the emoji
    assert choice["logprobs"]["refusal"] is None


async def test_without_top_logprobs_none_are_listed_and_without_logprobs_nothing_is(door):
    choice = (await door.chat(logprobs=True)).json()["choices"][0]
    assert all(entry["top_logprobs"] == [] for entry in choice["logprobs"]["content"])
    assert (await door.chat(logprobs=False, top_logprobs=0)).json()["choices"][0]["logprobs"] is None


async def test_a_text_completion_has_four_lists_of_one_length(door):
    body = await complete(door, logprobs=2)
    choice = body["choices"][0]
    logprobs = choice["logprobs"]
    assert logprobs["token_logprobs"] == [logprob_of(i, 0).logprob for i in IDS]
    assert "".join(logprobs["tokens"]) == choice["text"] == PROMPT
    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        assert choice["text"][offset:].startswith(token)
    for token, own, top in zip(
        logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True
    ):
        assert top[token] == own == max(top.values())  # lm-eval calls it greedy if it is the largest
        assert 1 <= len(top) <= 2


async def test_with_zero_likeliest_the_token_itself_is_still_named(door):
    logprobs = (await complete(door, logprobs=0))["choices"][0]["logprobs"]
    assert [list(top) for top in logprobs["top_logprobs"]] == [[token] for token in logprobs["tokens"]]


async def test_a_stream_lists_what_the_whole_answer_lists(door):
    whole = (await complete(door, logprobs=1, echo=True))["choices"][0]
    chunks = await door.chunks("/v1/completions", prompt=PROMPT, logprobs=1, echo=True)
    parts = [chunk["choices"][0] for chunk in chunks]
    assert "".join(part["text"] for part in parts) == whole["text"]
    for name, listed in whole["logprobs"].items():
        assert [one for part in parts for one in part["logprobs"][name]] == listed


@pytest.mark.parametrize("prompt", [PROMPT, list(IDS)], ids=["text", "ids"])
async def test_echo_shows_the_prompt_in_front_with_its_logprobs(door, prompt):
    body = await complete(door, prompt=prompt, echo=True, logprobs=1, max_tokens=1)
    choice = body["choices"][0]
    logprobs = choice["logprobs"]
    assert choice["text"] == PROMPT + logprobs["tokens"][-1]
    assert logprobs["token_logprobs"] == [
        None,
        *(logprob_of(i, 0).logprob for i in IDS[1:]),
        logprob_of(IDS[0], 0).logprob,
    ]
    assert logprobs["top_logprobs"][0] is None
    assert logprobs["text_offset"][0] == 0
    assert logprobs["text_offset"][-1] == len(PROMPT)
    assert body["usage"]["completion_tokens"] == 1


async def test_echo_alone_shows_the_prompt(door):
    choice = (await complete(door, echo=True, max_tokens=3, n=2))["choices"][1]
    assert choice["text"] == PROMPT + TOKENIZER.decode(IDS[:3])
    assert choice["logprobs"] is None
    chunks = await door.chunks("/v1/completions", prompt=PROMPT, echo=True, max_tokens=3)
    assert chunks[0]["choices"][0]["text"].startswith(PROMPT)


async def test_max_tokens_of_zero_scores_the_prompt_alone(door):
    body = await complete(door, echo=True, logprobs=1, max_tokens=0)
    choice = body["choices"][0]
    assert choice["text"] == PROMPT
    assert len(choice["logprobs"]["tokens"]) == len(IDS)
    assert choice["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 0
    (chunk,) = await door.chunks("/v1/completions", prompt=PROMPT, echo=True, logprobs=1, max_tokens=0)
    assert chunk["choices"][0]["text"] == PROMPT


async def test_max_tokens_of_zero_needs_no_model_where_nothing_is_scored(door):
    body = await complete(door, echo=True, max_tokens=0)
    assert (body["choices"][0]["text"], body["usage"]["completion_tokens"]) == (PROMPT, 0)
    assert door.backend.tally.requests[0].sampling.max_tokens == 0
    assert (await complete(door, max_tokens=0))["choices"][0]["text"] == ""


async def test_an_impossible_token_has_a_number_and_not_infinity(door, monkeypatch):
    impossible = TokenLogprob(float("-inf"))
    monkeypatch.setattr("tests.unit.gateway.fake_backend.logprob_of", lambda *_: impossible)
    listed = (await door.chat(logprobs=True)).json()["choices"][0]["logprobs"]["content"]
    assert {entry["logprob"] for entry in listed} == {-9999.0}


async def test_lm_evals_sum_is_that_of_the_continuation(door):
    """lm-eval sends context + continuation as ids with max_tokens 1 and reads [len(context):-1]."""
    context_len = 3
    body = await complete(door, prompt=[list(IDS)], echo=True, logprobs=1, max_tokens=1, seed=1234)
    logprobs = body["choices"][0]["logprobs"]
    scored = logprobs["token_logprobs"][context_len:-1]
    assert sum(scored) == pytest.approx(sum(logprob_of(i, 0).logprob for i in IDS[context_len:]))
    assert all(
        own == max(top.values())
        for own, top in zip(scored, logprobs["top_logprobs"][context_len:-1], strict=True)
    )


async def test_missing_log_probabilities_are_an_error_and_not_an_empty_list(door, monkeypatch):
    monkeypatch.setattr("tests.unit.gateway.fake_backend.logprob_of", lambda *_: None)
    assert (await door.chat(logprobs=True)).status_code == 500
