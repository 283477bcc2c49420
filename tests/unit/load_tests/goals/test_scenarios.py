"""Parts of the scenarios of ``python -m load_tests.goals``, on the demo pair or without a model."""

import json

import httpx
import pytest

from adasd.requests import Mode, SamplingParams, SpeculationOptions
from load_tests.demo_pair import DEMO
from load_tests.goals import many_streams, one_stream
from load_tests.goals.hopeless_draft import write_first_layers
from load_tests.goals.in_process import Engines, over_off, rates
from load_tests.peers.race import PeerResult
from load_tests.throughput.streamed import Streamed, stream


def test_first_layers_are_a_model_that_drafts_and_every_cold_answer_is_a_first_one(tmp_path, monkeypatch):
    write_first_layers(str(DEMO / "target"), str(tmp_path / "draft"), 1)
    config = json.loads((tmp_path / "draft" / "config.json").read_text())
    assert config["num_hidden_layers"] == 1
    engines = Engines.load(str(DEMO / "target"), str(tmp_path / "draft"), 1, draft_weights="full")
    made, pair = [], Engines.pair
    monkeypatch.setattr(Engines, "pair", lambda self: made.append(pair(self)) or made[-1])
    ways = {mode.value: SpeculationOptions(mode) for mode in (Mode.OFF, Mode.EXACT)}
    sampling = SamplingParams(12, 0.0, ignore_eos=True)
    found = rates(engines, ways, ["Hello!", "Write a story."], sampling, 2, cold=True)
    assert {name: len(each) for name, each in found.items()} == {"off": 2, "exact": 2}
    assert over_off(found, "exact") > 0
    assert len(made) == 2 + 2 * 2 * 2


def test_a_contender_that_is_missing_is_the_reason_of_its_row():
    found = {"ours": PeerResult("ours", 30.0, 1.0, 900.0), "theirs": PeerResult("theirs", 20.0, 0.7, 1000.0)}
    assert one_stream.over("speed", 1.0, "ours", "theirs", found).measured == 1.5
    assert one_stream.over("reading", 1.0, "ours", "theirs", found, "read_per_s").measured == 0.9
    found["theirs"] = PeerResult("theirs", missing="there is no wheel")
    row = one_stream.over("speed", 1.0, "ours", "theirs", found)
    assert (row.measured, row.about) == (None, "theirs: there is no wheel")


def answer(first_token_s, num_tokens=10):
    return Streamed("text", num_tokens, 1.0, first_token_s, (), 0, 0)


def test_speed_and_late_first_tokens_of_bursts():
    ours = [(2.0, [answer(0.1), answer(0.2)]), (1.0, [answer(0.1), answer(0.4)])]
    theirs = [(1.0, [answer(0.5)]), (1.0, [answer(0.8)])]
    speed, late = many_streams.beside_vllm(ours, theirs)
    assert (speed.measured, late.measured) == (1.5, 0.5)
    assert speed.is_met
    assert late.is_met


def test_no_prompt_of_a_burst_begins_like_another_ones():
    found = [prompt for burst in range(4) for prompt in many_streams.prompts_of(burst)]
    assert len({prompt.split(".")[0] for prompt in found}) == len(found)


@pytest.mark.parametrize("mode", [None, Mode.EXACT])
def test_only_our_own_server_is_told_a_mode(mode):
    asked = []

    def handle(request):
        asked.append(json.loads(request.content))
        events = [
            {"choices": [{"delta": {"content": "a"}}]},
            {"choices": [], "usage": {"completion_tokens": 1}},
        ]
        lines = [f"data: {json.dumps(event)}\n\n" for event in events]
        return httpx.Response(200, text="".join(lines) + "data: [DONE]\n\n")

    with httpx.Client(base_url="http://server", transport=httpx.MockTransport(handle)) as client:
        assert stream(client, "model", "Hello!", mode, 5, iter(range(9)).__next__).text == "a"
    assert asked[0].get("speculation") == ({"mode": "exact"} if mode else None)
