"""The commands simulate and plan from end to end, and their refusals: one sentence, status 2, nothing written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.cli import plan, simulate
from cluster.simulation import behaviour
from cluster.simulation.cards import read_cards
from tests.pages import charts_of, fetched_by

CARDS = """
targets:
  large:
    passes: {1: [[1, 20], [256, 20]], 4: [[4, 24], [256, 24]]}
    draft_passes: {1: [[1, 1.5], [256, 2]], 4: [[4, 2], [256, 3]]}
    num_slots: 4
    cost_per_hour: 3
    start_up_s: 5
drafts:
  small: {passes: {1: [[1, 3], [256, 6]], 8: [[8, 4], [256, 8]]}, num_slots: 8, cost_per_hour: 0.5}
texts: {accepted: 0.8, answer_tokens: 24, prompt_tokens: 16}
service: {request_ms: 1, ending_ms: 1, first_ms: 1, lease_ms: 1, call_ms: 0.1, worker_ms: 0.1}
"""


@pytest.fixture
def cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of small cards; speeds are measured with few rounds."""
    monkeypatch.setattr(behaviour, "ROUNDS", 150)
    monkeypatch.setattr(behaviour, "WARM_UP", 60)
    file = tmp_path / "cards.yaml"
    file.write_text(CARDS)
    return file


def play(argv: list[str], cards: Path) -> int:
    return simulate.main([*argv, "--cards", str(cards)])


def test_a_simulation_is_shown_and_written(cards: Path, tmp_path: Path, capsys):
    files = tmp_path / "found.json", tmp_path / "found.html"
    argv = ["--arrivals", "poisson:rate=2,seconds=20", "--json", str(files[0]), "--html", str(files[1])]
    assert play(argv, cards) == 0
    said = capsys.readouterr().out
    found, page = json.loads(files[0].read_text()), files[1].read_text()
    assert found["detail"] == "rounds"
    assert found["figures"]["num_done"] == found["requests"] > 20
    assert "objective ttft=500,tpot=50,share=0.95 held" in said
    assert [len(chart["lines"]) for chart in charts_of(page)] == [3, 2, 1, 1]
    assert fetched_by(page) == []
    top = page[: page.index("<section")]
    assert all(word in top for word in (found["date"], found["commit"][:7], f"{found['requests']} requests"))


def test_answers_are_followed_one_by_one_with_an_incident(cards: Path, tmp_path: Path):
    file = tmp_path / "found.json"
    argv = ["--arrivals", "poisson:rate=3,seconds=200", "--json", str(file), "--target-max-replicas", "8"]
    assert play([*argv, "--incident", "target:at=60,until=100,share=0.5"], cards) == 0
    found = json.loads(file.read_text())
    assert found["detail"] == "answers"
    figures = found["figures"]
    assert figures["num_done"] + figures["num_refused"] == found["requests"]
    assert len({len(column) for column in found["timeline"].values()}) == 1


def test_a_plan_compares_three_kinds_and_prices_them(cards: Path, tmp_path: Path, capsys):
    files = tmp_path / "plan.json", tmp_path / "plan.html"
    argv = ["--rate", "4", "--objective", "ttft=400,tpot=26", "--cards", str(cards)]
    assert plan.main([*argv, "--json", str(files[0]), "--html", str(files[1]), "--draft-cost", "0.25"]) == 0
    found = json.loads(files[0].read_text())
    assert {one["kind"] for one in found["offers"]} == {plan.REMOTE, plan.BESIDE, "no draft"}
    for one in plan.offers_of(found):
        assert one["figures"]["attainment"] >= 0.95
        assert one["cost_per_hour"] == pytest.approx(3 * one["targets"] + 0.25 * one["drafts"])
        tokens_per_hour = 3600 * 4 * 24
        assert one["cost_per_million"] == pytest.approx(one["cost_per_hour"] / tokens_per_hour * 1e6)
        assert one["lost_target"] <= one["figures"]["attainment"] + 0.02
    assert "cheapest: " in capsys.readouterr().out
    page = files[1].read_text()
    assert [[line["label"] for line in chart["lines"]] for chart in charts_of(page)] == 2 * [
        [one["kind"] for one in found["speeds"]]
    ]
    assert fetched_by(page) == []
    assert found["commit"][:7] in page[: page.index("<section")]


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--rate", "4", "--answer-tokens", "1"], "answers of one token have no speed per token"),
        (["--rate", "0.0001"], "a plan needs a rate of 0.01 requests per second or more, not 0.0001"),
    ],
)
def test_what_no_plan_can_be_made_for_is_refused(argv: list[str], sentence: str, cards: Path, capsys):
    assert plan.main([*argv, "--cards", str(cards)]) == 2
    assert sentence in capsys.readouterr().err


def test_a_plan_for_the_lowest_rate_has_enough_requests(cards: Path, tmp_path: Path):
    file = tmp_path / "plan.json"
    argv = ["--rate", "0.01", "--answer-tokens", "2", "--draft-card", "none", "--cards", str(cards)]
    assert plan.main([*argv, "--json", str(file)]) == 0
    (one, _) = plan.offers_of(json.loads(file.read_text()))
    assert one["targets"] == 1
    assert one["figures"]["num_done"] > 120


def test_answers_of_one_token_are_simulated_round_by_round_only(cards: Path, capsys):
    argv = ["--arrivals", "poisson:rate=2,seconds=5", "--answer-tokens", "1"]
    assert play(argv, cards) == 0
    assert play([*argv, "--detail", "answers"], cards) == 2
    assert "answers of one token have no speed per token" in capsys.readouterr().err


@pytest.mark.parametrize("detail", ["rounds", "answers"])
def test_slots_and_rest_hold_as_they_are_set(detail: str, cards: Path, tmp_path: Path):
    file = tmp_path / "found.json"
    argv = ["--arrivals", "poisson:rate=8,seconds=15", "--detail", detail, "--json", str(file)]

    def found(*more: str) -> dict:
        assert play([*argv, *more], cards) == 0
        return json.loads(file.read_text())

    usual = found()
    assert found("--target-num-slots", "4")["figures"] == usual["figures"], "the card's own number"
    assert max(found("--target-num-slots", "2")["timeline"]["running"]) <= 2
    assert max(usual["timeline"]["running"]) > 2
    assert found("--draft-num-slots", "1")["figures"] != usual["figures"]
    assert len(found("--rest-s", "100")["timeline"]["seconds"]) > 100 > len(usual["timeline"]["seconds"])


def test_an_objective_that_nothing_holds_is_refused_with_the_reasons(cards: Path, tmp_path: Path, capsys):
    file = tmp_path / "plan.json"
    argv = [
        "--rate",
        "4",
        "--objective",
        "tpot=1",
        "--cards",
        str(cards),
        "--json",
        str(file),
        "--draft-card",
        "none",
    ]
    assert plan.main(argv) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith(
        "adasd plan: nothing holds ttft=500,tpot=1,share=0.95 (no draft: a target with one session"
    )
    assert "\n" not in said
    assert not file.exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("num_slots: 4", "num_slot: 4"), "there is no 'num_slot'; did you mean 'num_slots'?"),
        (("[256, 20]]", "[256, 19]]"), "takes 20 ms over 1 tokens and 19 ms over 256"),
        (
            ("1: [[1, 3], [256, 6]], 8: [[8, 4], [256, 8]]", "1: [[1, 30]]"),
            "a draft must be faster than its target",
        ),
        (("accepted: 0.8", "accepted: 1.8"), "texts.accepted must be a number from 0 to 1, not 1.8"),
        (("accepted: 0.8", "traces: no-such-file"), "cannot read the traces"),
        (("targets:", "target:"), "there is no 'target'; did you mean 'targets'?"),
        (("num_slots: 4", "num_slots: many"), "num_slots must be a number from 1 to 65536, not 'many'"),
        (
            ("passes: {1: [[1, 20], [256, 20]], 4: [[4, 24], [256, 24]]}", "passes: 20"),
            "must be a table of sessions",
        ),
    ],
)
def test_cards_that_contradict_each_other_are_refused(
    change, sentence: str, cards: Path, tmp_path: Path, capsys
):
    text = cards.read_text()
    assert change[0] in text
    cards.write_text(text.replace(*change, 1))
    file = tmp_path / "found.json"
    assert play(["--arrivals", "poisson:rate=2,seconds=20", "--json", str(file)], cards) == 2
    said = capsys.readouterr().err.strip()
    assert sentence in said
    assert "\n" not in said
    assert not file.exists()


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--arrivals", "poisson"], "poisson needs rate"),
        (["--arrivals", "poisson:rate=2", "--objective", "speed=3"], "an objective is ttft=MS"),
        (["--arrivals", "poisson:rate=2", "--target-card", "huge"], "has no target 'huge'; it has large"),
        (
            ["--arrivals", "poisson:rate=2", "--json", "/no/such/folder/x.json"],
            "there is no folder /no/such/folder",
        ),
        (["--arrivals", "poisson:rate=2", "--incident", "target:at=5"], "an incident is target|draft:at=S"),
        (["--arrivals", "poisson:rate=2", "--mode", "adaptive"], "set speculation.mode to exact or off"),
    ],
)
def test_bad_options_are_refused(argv: list[str], sentence: str, cards: Path, capsys):
    assert play(argv, cards) == 2
    said = capsys.readouterr().err.strip()
    assert sentence in said
    assert "\n" not in said


def test_the_example_cards_can_be_read():
    cards = read_cards(simulate.packaged("examples") / "cards.yaml")
    pair = cards.pair(None, None)
    assert pair.draft is not None
    assert all("assumed" in card.source for card in (pair.target, pair.draft))


def test_a_target_of_four_ranks_costs_four_cards(cards: Path):
    pair = read_cards(cards).pair(None, None)
    options = plan.parser().parse_args(["--rate", "1", "--target-cost", "2.5"])
    assert plan.priced(pair, options, 4).target.cost_per_hour == 10.0
