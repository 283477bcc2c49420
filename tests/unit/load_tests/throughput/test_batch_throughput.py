"""The three measurements on a random pair, and the report's arithmetic on made-up figures."""

import json
from itertools import count

import pytest

from adasd.requests import Mode, SamplingParams, SpeculationOptions
from load_tests.peers.batch_peers import (
    CONTINUOUS,
    EXACT,
    OFF,
    PADDED,
    Continuous,
    PaddedBatch,
    load_pair,
    ours,
    until_end,
)
from load_tests.peers.in_process_batch import InProcessBatch
from load_tests.peers.stream_peers import plain_model
from load_tests.throughput import batch_throughput
from load_tests.throughput.batch_throughput import (
    FirstToken,
    Gaps,
    Throughput,
    differing,
    gaps,
    goals,
    quantile,
    race,
)
from tests import pairs

PROMPTS = [(5, 6, 7), (9,), (8, 7, 6, 5, 4, 3), (11, 12)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A random pair on disk."""
    return [str(folder) for folder in pairs.write_pair(tmp_path_factory.mktemp("pair"))]


def test_all_ways_to_answer_agree(folders):
    pair = load_pair(*folders, 1, 4, prefix_cache=False)
    batchers = ours(pair) | {PADDED: PaddedBatch(plain_model(folders[0], "cpu"), pair.eos_ids)}
    with Continuous(plain_model(folders[0], "cpu"), pair.eos_ids, 4) as continuous:
        batchers[CONTINUOUS] = continuous
        for width in (1, 3, 4):
            answers = {name: one.answer_all(PROMPTS, width, 12) for name, one in batchers.items()}
            assert answers[OFF] == answers[EXACT] == answers[PADDED] == answers[CONTINUOUS]
            assert all(0 < len(answer) <= 12 for answer in answers[OFF])
    for engine in (pair.target, pair.draft):
        engine.check_integrity()
        assert engine.num_free_slots == 4


def test_a_batch_answers_each_as_if_alone_and_notes_when(folders):
    pair = load_pair(*folders, 1, 4, prefix_cache=True)
    for mode in (Mode.OFF, Mode.EXACT):
        ticks = count()
        batch = InProcessBatch(pair, SpeculationOptions(mode), clock=lambda ticks=ticks: float(next(ticks)))
        answers = [batch.start(p, SamplingParams(10, temperature=0.0, ignore_eos=True)) for p in PROMPTS]
        assert batch.num_running == 4
        batch.finish()
        assert batch.num_running == 0
        for prompt, answer in zip(PROMPTS, answers, strict=True):
            alone = pair.generate(
                prompt, sampling=SamplingParams(10, temperature=0.0, ignore_eos=True), mode="off"
            )
            assert answer.token_ids == list(alone.token_ids)
            assert answer.first_token_s > 0
            assert min(answer.gaps_s) > 0


def test_rates_count_all_tokens_and_the_warm_up_is_not_measured():
    class Fixed:
        def __init__(self, *answers):
            self.answers, self.asked = answers, []

        def answer_all(self, prompts, width, max_tokens):
            self.asked.append((len(prompts), width, max_tokens))
            return list(self.answers)

    ticks = count(0, 2)
    batchers = {OFF: Fixed([1, 2], [3]), EXACT: Fixed([1, 2], [4])}
    found = race(batchers, [(1,), (2,)], 1, 3, 50, clock=lambda: float(next(ticks)))
    assert [(one.name, one.tokens_per_s, one.num_differing) for one in found] == [
        (OFF, [1.5] * 3, 0),
        (EXACT, [1.5] * 3, 1),
    ]
    assert batchers[EXACT].asked == [(1, 1, 8)] + [(2, 1, 50)] * 3


def test_a_prompt_differs_once_however_often_it_does():
    assert differing([[[1], [2]], [[1], [3]]], [[[1], [9]], [[1], [9]]]) == 1


def test_an_answer_ends_at_its_first_end():
    assert until_end([4, 5, 1, 0, 0], frozenset({1})) == [4, 5]
    assert until_end([4, 5], frozenset({1})) == [4, 5]


def test_gaps_count_as_disturbed_only_while_a_long_prompt_is_in_the_works(folders):
    pair = load_pair(*folders, 1, 3, prefix_cache=True)
    found = gaps(pair, Mode.OFF, PROMPTS[:2], 150, 1)
    assert (found.num_running, found.num_long_prompts) == (2, 1)
    assert found.long_prompt_len == pair.target.max_context - 8
    assert 0 < found.quiet_median_ms <= found.quiet_p99_ms
    assert 0 < found.disturbed_median_ms <= found.disturbed_p99_ms


def test_quantiles():
    assert quantile(range(100), 0.99) == 99
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([], 0.99) == 0.0


def test_every_goal_that_is_missed_is_named():
    def at(name, rate, width=32):
        return Throughput(name, width, [rate], rate, 0)

    good = [at(OFF, 150.0), at(EXACT, 149.0), at(PADDED, 150.0), at(CONTINUOUS, 100.0)]
    calm, jerky = (Gaps("off", 8, 2000, 3, 1.0, 2.0, 1.5, p99) for p99 in (4.0, 5.0))
    assert goals(good, [FirstToken("off", 50.0, 10.0)], [calm]) == []
    bad = [at(OFF, 149.0), at(EXACT, 140.0), at(PADDED, 150.0), at(CONTINUOUS, 100.0)]
    assert goals(bad, [FirstToken("off", 49.0, 10.0)], [jerky]) == [
        "exact is 0.94x of off at 32 sessions, goal 0.98x",
        "off is 1.49x of continuous batching at 32 sessions, goal 1.5x",
        "off is 0.99x of padded generate at 32 sessions, goal 1x",
        "first token 4.9x sooner in mode off, goal 5x",
        "p99 gap 2.50x in mode off, goal 2x",
    ]


def test_a_whole_run_writes_table_and_file(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(batch_throughput, "PREFIX_LEN", 40)
    monkeypatch.setattr(batch_throughput, "MEMORY_TOKENS", 20)
    file = tmp_path / "figures.json"
    arguments = ["--target", folders[0], "--draft", folders[1], "--widths", "1", "2", "--repeats", "1"]
    arguments += ["--max-tokens", "8", "--gap-tokens", "30", "--ours-only", "--json", str(file)]
    assert batch_throughput.main(arguments) == 0
    written = json.loads(file.read_text())
    assert [(one["name"], one["width"]) for one in written["throughput"]] == [
        (name, width) for width in (1, 2) for name in (OFF, EXACT)
    ]
    assert 0 < written["memory"]["bytes_per_full_slot"] < 2**24
    assert written["memory"]["bytes_per_session"] < 2**24
    assert {one["mode"] for one in written["first_token"]} == {"off", "exact"}
    assert written["machine"]["cores"] >= 1
    assert "tokens/s of all sessions" in capsys.readouterr().out
