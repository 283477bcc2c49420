"""Running methods on a random pair: exact methods answer as plain decoding does, and the counts add up."""

import json

import pytest

from adasd.evaluate.compared_methods import parse
from adasd.evaluate.measure import as_modelled, load_pair, run
from adasd.evaluate.questions import Question
from adasd.rounds import DraftBlock, RoundCompleted, StopRule, Verdict
from cluster import cli
from cluster.cli import eval as eval_command
from tests.pairs import write_pair


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return [str(folder) for folder in write_pair(tmp_path_factory.mktemp("pair"))]


ITEMS = [Question("g", "hello there", lambda text: True), Question("h", "a fox", None)]


def test_counts_add_up_and_greedy_exact_methods_repeat_plain_decoding(folders):
    seen = []
    methods = parse("static-3,adasd,adasd+collision")
    done = list(
        run(
            load_pair(*folders),
            ITEMS,
            methods,
            [0.0],
            max_tokens=12,
            on_answer=lambda method, temperature: seen.append(method.name),
        )
    )
    assert [one.method.name for one in done] == ["off", "static-3", "adasd", "adasd+collision"]
    assert seen == [one.method.name for one in done for _ in ITEMS]
    plain = [answer.tokens for answer in done[0].answers]
    for one in done:
        for answer, item in zip(one.answers, ITEMS, strict=True):
            assert (answer.group, answer.correct) == (item.group, True if item.judge else None)
            assert answer.num_decoded <= sum(answer.accepted_per_round) + answer.num_rounds
            assert answer.decode_s >= 0 <= answer.cpu_s
            if "+" not in one.method.name:
                assert answer.num_relaxed == 0
                assert answer.tokens in plain
    assert all(answer.num_rounds == answer.num_decoded for answer in done[0].answers)


def test_equal_seeds_give_equal_samples(folders):
    def sampled(seed):
        methods = parse("static-3,adasd+collision")
        done = run(load_pair(*folders, seed=seed), ITEMS, methods, [1.0], max_tokens=10)
        return [answer.tokens for one in done for answer in one.answers]

    assert sampled(1) == sampled(1)
    assert sampled(1) != sampled(2)


# --------------------------------------------------------------------------- the commands


def test_the_command_writes_both_reports(folders, tmp_path, capsys):
    lines = tmp_path / "mine.jsonl"
    lines.write_text('{"prompt": "hello", "reference": "zzz"}\n{"prompt": "a fox"}\n')
    files = ["--json", str(tmp_path / "r.json"), "--html", str(tmp_path / "r.html")]
    pair = ["--target", folders[0], "--draft", folders[1], "--workload", str(lines)]
    short = ["--methods", "static-2,adasd+collision", "--temperatures", "0", "--max-tokens", "8"]
    assert cli.main(["eval", *pair, *short, *files]) == 0
    said = capsys.readouterr()
    assert "adasd+collision" in said.out
    told = [f"loading {folders[0]} and {folders[1]}", "first answer", "off, T=0", "static-2, T=0"]
    assert [line for line in said.err.splitlines() if line in told] == told
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["about"]["options"]["target"] == folders[0]
    assert {"commit", "date", "hardware", "versions", "speculation", "methods"} <= set(record["about"])
    assert [row["method"] for row in record["rows"]] == ["off", "static-2", "adasd+collision"]
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--methods", "adasdd"], "did you mean 'adasd'"),
        (["--temperatures", "0,warm"], "not '0,warm'"),
        (["--temperatures", "-1"], "between 0 and 10"),
        (["--workload", "nowhere.jsonl"], "cannot be read"),
        (["--json", "no/such/folder/r.json"], "there is no folder"),
        (["--target", "no/such/model"], "no/such/model"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_runs(options, sentence, capsys):
    assert eval_command.main(["--n", "1", *options]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--n", "0"], ["--max-relaxed-fraction", "1.5"], ["--methodz", "all"]])
def test_numbers_out_of_range_leave_with_status_2(options):
    with pytest.raises(SystemExit) as left:
        eval_command.main(options)
    assert left.value.code == 2


def test_methods_are_listed_with_their_sources(capsys):
    assert cli.main(["methods"]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("calibrated*", "adasd", "collision", "typical", "2512.11280"))


def test_methods_that_need_sampling_are_left_out_where_there_is_none(folders):
    done = list(
        run(load_pair(*folders), ITEMS, parse("static-3+block,adasd+collision"), [0.0, 1.0], max_tokens=6)
    )
    assert [(one.method.name, one.temperature) for one in done] == [
        ("off", 0.0),
        ("adasd+collision", 0.0),
        ("off", 1.0),
        ("static-3+block", 1.0),
        ("adasd+collision", 1.0),
    ]


def test_told_times_are_those_of_the_cost_model():
    drafted = DraftBlock("s", 1, 3, (7, 8, 9), (0.1, 0.2, 0.3), compute_ms=55.0, queue_ms=4.0)
    verdict = Verdict("s", 2, 3, 1, 5, compute_ms=66.0, queue_ms=3.0)
    told = as_modelled(0.2, RoundCompleted(drafted, verdict, 88.0, 99.0, rule=StopRule(3)))
    assert (told.draft_ms, told.verify_ms) == (pytest.approx(0.6), 1.0)
    assert (told.drafted.compute_ms, told.drafted.queue_ms) == (pytest.approx(0.6), 0.0)
    assert (told.verdict.compute_ms, told.verdict.queue_ms) == (1.0, 0.0)
    assert (told.drafted.tokens, told.verdict.num_accepted, told.rule) == ((7, 8, 9), 1, StopRule(3))
    assert as_modelled(0.2, RoundCompleted(None, verdict, 0.0, 99.0)).draft_ms == 0.0


def test_methods_by_the_clock_repeat_themselves_where_they_are_told_the_cost(folders):
    def lengths(cost_ratio: float) -> list[tuple[int, ...]]:
        methods = parse("goodput,adasd-goodput,on-the-fly")
        done = run(load_pair(*folders), ITEMS, methods, [0.0], max_tokens=40, cost_ratio=cost_ratio)
        return [answer.drafted_per_round for one in done for answer in one.answers]

    assert lengths(0.05) == lengths(0.05)
    assert lengths(0.05) != lengths(0.9)


def test_noise_makes_a_poor_draft_and_leaves_the_target(folders):
    target = folders[0]

    def accepted(noise: float) -> tuple[int, tuple[int, ...]]:
        (_, made) = run(
            load_pair(target, target, draft_noise=noise), ITEMS[:1], parse("static-3"), [0.0], max_tokens=24
        )
        return sum(made.answers[0].accepted_per_round), made.answers[0].tokens

    (twin, same), (poor, also) = accepted(0.0), accepted(3.0)
    assert twin > poor
    assert same == also
