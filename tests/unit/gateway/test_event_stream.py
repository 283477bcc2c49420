"""The streaming rule by which benchmark clients measure speculation."""

import json

import pytest

from adasd.errors import DeadlineExceeded, DeviceFailure, WorkerLost
from services.gateway.http.error_table import error_body
from services.gateway.http.proxy_front import OrchestratorLost


def prompt_of(door, num_tokens):
    ids = door.backend.tokenizer.encode("the cat sat on the mat and the dog ate the hat 1 2 3 4 5")
    assert len(ids) >= num_tokens
    return list(ids[:num_tokens])


async def test_thirteen_tokens_come_as_one_and_four_steps_of_three(door):
    door.backend.block_len = 3
    chunks = await door.chunks("/v1/completions", prompt=prompt_of(door, 13), return_token_provenance=True)
    assert len(chunks) == 5
    assert door.backend.tally.requests[0].prompt == tuple(prompt_of(door, 13))
    assert [len(c["choices"][0]["adasd"]["tokens"]) for c in chunks] == [1, 3, 3, 3, 3]


async def test_finish_reason_rides_on_the_last_content_chunk_alone(door):
    chunks = await door.chunks("/v1/completions", prompt=prompt_of(door, 9))
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None, None, "length"]
    assert all(c["choices"][0]["text"] for c in chunks)


async def test_the_role_is_merged_into_the_first_content_chunk(door):
    chunks = await door.chunks(messages=[{"role": "user", "content": "the cat sat on the mat"}])
    deltas = [c["choices"][0]["delta"] for c in chunks]
    assert deltas[0]["role"] == "assistant"
    assert all("role" not in delta for delta in deltas[1:])
    assert all(c["object"] == "chat.completion.chunk" for c in chunks)
    assert len({c["id"] for c in chunks}) == 1


async def test_usage_speculation_and_metrics_follow_in_a_chunk_without_choices(door):
    *content, last = await door.chunks(
        "/v1/completions",
        prompt=prompt_of(door, 9),
        stream_options={"include_usage": True},
        speculation={"mode": "adaptive"},
    )
    assert all(c["usage"] is None for c in content)
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": 9,
        "completion_tokens": 9,
        "total_tokens": 18,
        "prompt_tokens_details": {"cached_tokens": 2},
    }
    assert last["speculation"]["mode"] == "adaptive"
    assert last["speculation"]["acceptance"] == "adasd:min_ratio=0.25"
    assert last["metrics"]["speculative_decoding"]["num_spec_steps"] == 2


@pytest.mark.parametrize(
    ("fields", "reported"),
    [({}, False), ({"stream_options": {}}, False), ({"speculation": {}}, True)],
)
async def test_the_report_is_sent_where_it_was_asked_for(door, fields, reported):
    chunks = await door.chunks("/v1/completions", prompt=prompt_of(door, 5), **fields)
    assert (chunks[-1]["choices"] == []) is reported
    assert all("usage" not in c for c in chunks[:-1])


async def test_continuous_usage_counts_tokens_so_far(door):
    chunks = await door.chunks(
        "/v1/completions",
        prompt=prompt_of(door, 9),
        stream_options={"include_usage": True, "continuous_usage_stats": True},
    )
    assert [c["usage"]["completion_tokens"] for c in chunks] == [1, 5, 9, 9]
    assert all(c["usage"]["prompt_tokens"] == 9 for c in chunks)


async def test_mode_off_is_one_token_per_chunk(door):
    chunks = await door.chunks("/v1/completions", prompt=prompt_of(door, 6), speculation={"mode": "off"})
    assert len(chunks) == 7
    assert chunks[-1]["metrics"]["speculative_decoding"] is None
    assert chunks[-1]["metrics"]["adasd"]["tokens"]["target"] == 6


async def test_listed_tokens_join_to_the_shown_text_though_stop_and_half_characters_hold_it_back(door):
    prompt = list(door.backend.tokenizer.encode("naïve 🙂 cats on the mat STOP and more"))
    chunks = await door.chunks("/v1/completions", prompt=prompt, stop="STOP", return_token_provenance=True)
    shown = "".join(c["choices"][0]["text"] for c in chunks)
    tokens = [t for c in chunks for t in c["choices"][0]["adasd"]["tokens"]]
    assert shown == "naïve 🙂 cats on the mat "
    assert "".join(t["text"] for t in tokens) == shown
    assert [t["id"] for t in tokens] == prompt[: len(tokens)]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert {t["kind"] for t in tokens} == {"target", "exact", "correction"}


async def test_a_refusal_before_the_first_event_has_its_own_status(door):
    response = await door.chat("overload", stream=True)
    assert response.status_code == 429
    assert response.headers["retry-after"] == "3"
    assert response.json()["error"]["code"] == "overloaded"


async def test_a_full_server_refuses_before_it_reads_the_body(door):
    door.backend.is_full = True
    response = await door.post("/v1/chat/completions", {"messages": "not even valid"})
    assert (response.status_code, response.headers["Retry-After"]) == (429, "3")
    assert (await door.client.get(f"{door.address}/health")).status_code == 200


@pytest.mark.parametrize(("word", "code"), [("break", "worker_lost"), ("crash", None)])
async def test_a_failure_after_the_status_is_an_event_and_then_done(door, word, code, caplog):
    chunks = await door.chunks("/v1/completions", prompt=f"{word} the cat sat on the mat and the dog")
    assert len(chunks) == 3
    assert "error" not in chunks[1]
    assert chunks[2]["error"]["code"] == code
    assert chunks[2]["error"]["message"].endswith("send the request again" if code else "its log says why")
    assert "secret" not in json.dumps(chunks)


async def test_frames_are_ascii_so_that_no_client_splits_them_at_unicode_separators(door):
    response = await door.post(
        "/v1/completions", {"prompt": "the\u2028cat\x85sat ünder\u2029it", "stream": True}
    )
    assert response.content.isascii()
    assert len(response.text.splitlines()) == 2 * (response.text.count("data: "))


@pytest.mark.parametrize(("fields", "reason"), [({}, None), ({"stop": ["sat"]}, "sat")])
async def test_the_last_chunk_of_each_answer_says_what_stopped_it(door, fields, reason):
    chunks = await door.chunks("/v1/completions", prompt=["the cat sat", "a cat sat on it"], **fields)
    last = [
        chunk["choices"][0] for chunk in chunks if chunk["choices"] and chunk["choices"][0]["finish_reason"]
    ]
    assert sorted(choice["index"] for choice in last) == [0, 1]
    assert [choice["stop_reason"] for choice in last] == [reason, reason]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (WorkerLost("target", "it died"), "the target worker was lost: it died; send the request again"),
        (DeviceFailure("no memory"), "no memory; send the request again"),
        (
            DeadlineExceeded("the request", 3.0),
            "the request took longer than its limit of 3 s; ask for fewer tokens, or for more time",
        ),
        (OrchestratorLost(), str(OrchestratorLost())),
    ],
)
def test_an_error_says_what_to_do(error, message):
    assert error_body(error)["error"]["message"] == message
