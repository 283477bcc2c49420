"""The measurement on a random pair; the report's arithmetic on made-up answers."""

import json
from itertools import count

import pytest

from load_tests.interleaving import Turn
from load_tests.peers import stream_peers
from load_tests.peers.stream_peers import ASSISTED, OURS, PLAIN, Drafting
from load_tests.throughput import single_stream
from load_tests.throughput.single_stream import Measured, race, results, table
from tests import pairs


class Fixed:
    """Always answers with the same tokens."""

    exact = True

    def __init__(self, tokens, drafting=None):
        self.tokens, self.drafting, self.num_answers = tokens, drafting, 0

    def answer(self, prompt, max_tokens):
        self.num_answers += 1
        if self.drafting is not None:
            self.drafting.num_passes += 2
        return self.tokens[:max_tokens]


def measured(name, seconds, tokens=(1, 2, 3, 4)):
    """Two repeats of two prompts, each with its seconds."""
    return [
        Measured(Turn(repeat, prompt, name), tokens, seconds[repeat][prompt])
        for repeat in range(2)
        for prompt in range(2)
    ]


def test_the_warm_up_is_not_counted():
    racers = {PLAIN: Fixed([1, 2]), "exact adasd": Fixed([1, 2], Drafting())}
    ticks = count()
    found = race(racers, [[7], [8], [9]], 2, 16, clock=lambda: float(next(ticks)))
    assert len(found) == 2 * 3 * 2
    assert {one.seconds for one in found} == {1.0}
    assert racers["exact adasd"].num_answers == 1 + 6
    assert racers["exact adasd"].drafting.num_passes == 2 * 6


def test_rates_are_all_tokens_by_all_seconds_and_ratios_are_taken_within_a_repeat():
    racers = {
        PLAIN: Fixed([]),
        "assisted constant 5": Fixed([]),
        "assisted dynamic": Fixed([]),
        "exact adasd": Fixed([], Drafting(num_passes=8, num_drafted=10, num_accepted=6)),
    }
    answers = [
        *measured(PLAIN, [(1.0, 3.0), (2.0, 2.0)]),  # 8 tokens in 4 s, twice
        *measured("assisted constant 5", [(1.0, 1.0), (2.0, 2.0)]),  # 4 and 2 per second
        *measured("assisted dynamic", [(2.0, 2.0), (0.5, 0.5)]),  # 2 and 8: the better median
        *measured("exact adasd", [(1.0, 0.0), (1.0, 1.0)]),  # 8 and 4
    ]
    by_name = {one.name: one for one in results(answers, racers, lambda prompt, tokens: prompt == 0)}
    assert by_name[PLAIN].tokens_per_s == [2.0, 2.0]
    ours = by_name["exact adasd"]
    assert ours.tokens_per_s == [8.0, 4.0]
    assert ours.median_tokens_per_s == 6.0
    assert ours.ratio_to_generate == 3.0  # of 4 and 2
    assert ours.ratio_to_best_assisted == 2.25  # of 8/2 and 4/8
    assert ours.target_passes_per_token == 8 / 16
    assert ours.accepted_share == 0.6
    assert ours.accuracy == 0.5
    assert by_name[PLAIN].target_passes_per_token is None
    assert table(list(by_name.values())).row_count == 4


def test_prompts_with_another_answer_are_counted_once():
    answers = [
        *measured(PLAIN, [(1.0, 1.0)] * 2),
        *measured("adaptive", [(1.0, 1.0)] * 2, tokens=(1, 2, 3, 5)),
    ]
    answers[-1] = Measured(answers[-1].turn, (1, 2, 3, 4), 1.0)  # prompt 1 in repeat 1 is right
    found = results(answers, {PLAIN: Fixed([]), "adaptive": Fixed([])}, lambda prompt, tokens: True)
    assert [one.num_differing for one in found] == [0, 2]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return [str(folder) for folder in pairs.write_pair(tmp_path_factory.mktemp("pair"))]


@pytest.mark.slow
def test_a_random_pair_is_measured_and_every_exact_contender_is(pair, tmp_path, capsys):
    file = tmp_path / "figures.json"
    short = ["--prompts", "2", "--repeats", "1", "--max-tokens", "12", "--json", str(file)]
    assert single_stream.main(["--target", pair[0], "--draft", pair[1], *short]) == 0
    found = {one["name"]: one for one in json.loads(file.read_text())["results"]}
    assert list(found) == [PLAIN, *ASSISTED, *OURS]
    assert all(one["num_differing"] == 0 for name, one in found.items() if name != "adaptive")
    assert all(one["median_tokens_per_s"] > 0 for one in found.values())
    assert found["off"]["target_passes_per_token"] <= 1.0
    assert 0 < found["exact static 5"]["accepted_share"] <= 1
    assert "exact goodput" in capsys.readouterr().out


@pytest.mark.slow
def test_an_exact_mode_that_changes_answers_fails_the_run(pair, monkeypatch):
    monkeypatch.setattr(
        stream_peers.OurStream, "answer", lambda self, prompt, max_tokens: [1, 2, 3] if self.exact else [1]
    )
    short = ["--prompts", "1", "--repeats", "1", "--max-tokens", "4"]
    assert single_stream.main(["--target", pair[0], "--draft", pair[1], *short]) == 1


@pytest.mark.slow
def test_settings_of_one_assisted_contender_do_not_leak_into_the_next(pair):
    local, found = stream_peers.load(*pair, "cpu", 1)
    before = {name: found[name].settings.to_dict() for name in ASSISTED}
    prompt = local.tokenizer.apply_chat_template([{"role": "user", "content": "Tell me a story."}])
    for name in ASSISTED:
        found[name].answer(prompt, 24)
    after = {name: found[name].settings.to_dict() for name in ASSISTED}
    changed = [name for name in ASSISTED if before[name] != after[name]]
    assert changed == ["assisted heuristic"], "only the heuristic goes on from where it was"
    assert after["assisted constant 5"]["num_assistant_tokens"] == 5
    assert after["assisted dynamic"]["assistant_confidence_threshold"] == 0.4


def test_nonsense_is_refused(capsys):
    with pytest.raises(SystemExit):
        single_stream.parse(["--prompts", "0"])
    assert "0 is less than 1" in capsys.readouterr().err
