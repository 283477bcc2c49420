"""``python -m load_tests.goals`` with scenarios that are played."""

import json

import pytest

from load_tests.goals import command
from load_tests.goals.row import Row, ratio
from load_tests.load.watch import ServerGone


def fast(given):
    given.say(f"{given.threads} threads, {given.repeats} repeats")
    return [
        Row("speed over theirs", 1.0, 1.25, "ours 5, theirs 4"),
        Row("delay over theirs", 1.0, 0.5, at_most=True),
    ]


def slow(given):
    return [Row("delay over theirs", 1.0, 1.5, "ours 3 ms, theirs 2 ms", at_most=True)]


def gone(given):
    raise ServerGone("it ended with status 1: no memory")


PLAYED = {"fast": (fast, 1), "slow": (slow, 2), "gone": (gone, 3)}


def run(*words):
    return command.main(list(words), PLAYED)


def test_a_goal_is_met_from_either_side():
    assert Row("x", 1.0, 1.0).is_met
    assert not Row("x", 1.0, 0.99).is_met
    assert Row("x", 1.0, 1.0, at_most=True).is_met
    assert not Row("x", 1.0, 1.01, at_most=True).is_met
    assert Row("x", 1.0, None).is_met is None


def test_only_the_named_scenarios_run_and_their_goals_decide(capsys):
    assert run("fast", "--repeats", "2", "--threads", "1") == 0
    said = capsys.readouterr().out
    assert "1 threads, 2 repeats" in said
    assert "about 2 min" not in said
    assert run("fast", "slow") == 1


def test_figures_go_to_a_file_and_a_page_and_a_scenario_that_fails_is_named(tmp_path):
    figures, page = tmp_path / "goals.json", tmp_path / "goals.md"
    assert run("--json", str(figures), "--page", str(page)) == 1
    rows = json.loads(figures.read_text())["rows"]
    assert [(row["what"], row["measured"], row["is_met"]) for row in rows] == [
        ("speed over theirs", 1.25, True),
        ("delay over theirs", 0.5, True),
        ("delay over theirs", 1.5, False),
        ("gone", None, None),
    ]
    assert rows[-1]["about"] == "ServerGone: it ended with status 1: no memory"
    assert "| speed over theirs | 1.25 | >= 1 | yes | ours 5, theirs 4 |" in page.read_text()
    assert "| gone |  |  |  | ServerGone: it ended with status 1: no memory |" in page.read_text()


def test_an_unknown_scenario_is_refused_with_the_known_ones(capsys):
    with pytest.raises(SystemExit):
        run("fest")
    assert "there is no scenario 'fest'; there are fast, slow, gone" in capsys.readouterr().err


def test_the_help_names_every_scenario_with_its_minutes(capsys):
    with pytest.raises(SystemExit):
        command.main(["--help"])
    said = capsys.readouterr().out
    assert all(name in said for name in command.SCENARIOS)


def test_a_ratio_is_the_median_of_those_within_a_repeat():
    assert ratio([2.0, 9.0, 30.0], [1.0, 3.0, 10.0]) == 3.0
