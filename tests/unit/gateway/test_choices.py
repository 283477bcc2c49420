"""Several answers in one response: n, lists of prompts, both at once, whole and streamed."""

import asyncio
from collections import defaultdict

import pytest

from adasd.errors import WorkerLost
from adasd.results import Chunk, Complete
from services.gateway.http.multiplex import merged
from services.gateway.http.order import seed_of_choice

PROMPT = "the cat sat on the mat"


def texts(chunks):
    """The text of a stream's chunks by index, in order of arrival."""
    joined = defaultdict(str)
    for chunk in chunks:
        for choice in chunk["choices"]:
            joined[choice["index"]] += choice["text"]
    return dict(joined)


async def test_n_answers_are_n_requests_over_one_prompt(door):
    body = (await door.post("/v1/completions", {"prompt": PROMPT, "n": 3, "seed": 11})).json()
    assert [(c["index"], c["text"]) for c in body["choices"]] == [(i, PROMPT) for i in range(3)]
    requests = door.backend.tally.requests
    assert len({r.request_id for r in requests}) == 3
    assert len({r.prompt for r in requests}) == 1
    assert requests[0].sampling.seed == 11
    assert len({r.sampling.seed for r in requests}) == 3


async def test_seeds_are_the_same_every_time_and_of_every_prompt(door):
    for _ in range(2):
        await door.post("/v1/completions", {"prompt": ["the cat", "sat on"], "n": 2, "seed": 5})
    assert [r.sampling.seed for r in door.backend.tally.requests] == [5, seed_of_choice(5, 1)] * 4
    await door.post("/v1/completions", {"prompt": "the cat", "n": 2})
    assert [r.sampling.seed for r in door.backend.tally.requests[-2:]] == [None, None]


@pytest.mark.parametrize("seed", [0, -1, 2**63 - 1, -(2**63)])
def test_derived_seeds_fit_and_differ(seed):
    derived = [seed_of_choice(seed, number) for number in range(128)]
    assert derived[0] == seed
    assert len(set(derived)) == 128
    assert all(-(2**63) <= one < 2**63 for one in derived)


async def test_usage_counts_each_prompt_once_and_every_answer(door):
    body = (await door.post("/v1/completions", {"prompt": ["the cat", PROMPT], "n": 2})).json()
    lens = [len(r.prompt) for r in door.backend.tally.requests]
    assert [c["text"] for c in body["choices"]] == ["the cat", "the cat", PROMPT, PROMPT]
    assert body["usage"]["prompt_tokens"] == lens[0] + lens[2]
    assert body["usage"]["completion_tokens"] == sum(lens)
    assert body["usage"]["prompt_tokens_details"]["cached_tokens"] == 4
    assert body["metrics"] is None


async def test_drafted_tokens_are_counted_as_predictions_where_asked_for(door):
    body = (
        await door.post("/v1/completions", {"prompt": PROMPT, "n": 2, "return_prediction_tokens": True})
    ).json()
    details = body["usage"]["completion_tokens_details"]
    one = (await door.post("/v1/completions", {"prompt": PROMPT})).json()
    spec = one["metrics"]["speculative_decoding"]
    assert details["accepted_prediction_tokens"] == 2 * spec["num_accepted_draft_tokens"] > 0
    assert sum(details.values()) == 2 * spec["num_draft_tokens"]
    assert "completion_tokens_details" not in one["usage"]
    assert body["usage"]["completion_tokens"] == 2 * one["usage"]["completion_tokens"]


async def test_streams_of_several_answers_interleave_by_index(door):
    door.backend.step_s = 0.002
    *chunks, report = await door.chunks(
        "/v1/completions",
        prompt=["the cat sat", PROMPT],
        n=2,
        stream_options={"include_usage": True, "continuous_usage_stats": True},
    )
    assert texts(chunks) == {0: "the cat sat", 1: "the cat sat", 2: PROMPT, 3: PROMPT}
    order = [c["choices"][0]["index"] for c in chunks]
    assert order != sorted(order)
    ended = [c["choices"][0]["index"] for c in chunks if c["choices"][0]["finish_reason"]]
    assert sorted(ended) == [0, 1, 2, 3]
    counted = [c["usage"]["completion_tokens"] for c in chunks]
    assert counted == sorted(counted)
    assert report["choices"] == []
    assert report["usage"]["completion_tokens"] == counted[-1]
    assert report["metrics"] is None


async def test_every_choice_of_a_chat_stream_has_its_own_role_and_provenance(door):
    messages = [{"role": "user", "content": PROMPT}]
    chunks = await door.chunks(messages=messages, n=2, return_token_provenance=True)
    for index in range(2):
        own = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
        assert [c["delta"].get("role") for c in own] == ["assistant", *[None] * (len(own) - 1)]
        listed = [token["text"] for c in own for token in c["adasd"]["tokens"]]
        assert "".join(listed) == "".join(c["delta"]["content"] for c in own)


async def test_leaving_a_stream_of_several_answers_ends_them_all(served):
    served.backend.step_s = 0.05
    async with served.client.stream(
        "POST", "/v1/completions", json={"prompt": PROMPT * 3, "n": 4, "stream": True}
    ) as response:
        await anext(response.aiter_lines())
        assert served.backend.tally.running == 4
    await served.idle()


async def test_one_failure_ends_the_stream_and_the_other_answers(door):
    response = await door.post(
        "/v1/completions", {"prompt": ["break the cat sat on the mat", "hang"], "stream": True}
    )
    assert "unplugged" in response.text
    assert response.text.endswith("data: [DONE]\n\n")
    await door.idle()


async def test_a_refusal_of_every_answer_has_a_status(door):
    response = await door.post("/v1/completions", {"prompt": ["overload", "overload"], "stream": True})
    assert response.status_code == 429
    await door.idle()


# --------------------------------------------------------------------------- merging itself


class Source:
    """An answer whose events come when the test sends them."""

    def __init__(self):
        self.events, self.closed = asyncio.Queue(), False

    async def answer(self):
        try:
            while True:
                event = await self.events.get()
                if isinstance(event, Exception):
                    raise event
                yield event
                if isinstance(event, Complete):
                    return
        finally:
            self.closed = True


async def test_events_come_in_the_order_in_which_they_happen():
    one, two = Source(), Source()
    events = merged([one.answer(), two.answer()])
    for source, index in ((two, 1), (one, 0), (one, 0), (two, 1)):
        source.events.put_nowait(Chunk("x", ()))
        assert await asyncio.wait_for(anext(events), 20) == (index, Chunk("x", ()))
    await events.aclose()
    assert (one.closed, two.closed) == (True, True)


@pytest.mark.parametrize("others", [0, 2])
async def test_a_failure_is_raised_and_closes_the_others(others):
    sources = [Source() for _ in range(1 + others)]
    events = merged([source.answer() for source in sources])
    sources[0].events.put_nowait(WorkerLost("target", "gone"))
    with pytest.raises(WorkerLost):
        await asyncio.wait_for(anext(events), 20)
    assert all(source.closed for source in sources)
    assert len(asyncio.all_tasks()) == 1


async def test_a_reader_that_is_cancelled_closes_every_answer():
    sources = [Source() for _ in range(3)]
    events = merged([source.answer() for source in sources])
    reading = asyncio.create_task(anext(events))
    await asyncio.sleep(0.01)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert all(source.closed for source in sources)
