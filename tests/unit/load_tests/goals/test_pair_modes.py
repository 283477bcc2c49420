"""The table of a real pair's modes, on the demo pair."""

import json

import pytest

from load_tests.demo_pair import DEMO
from load_tests.goals import pair_modes
from load_tests.goals.pair_modes import WAYS

SHORT = ["--prompts", "2", "--repeats", "2", "--max-tokens", "12"]


@pytest.fixture(autouse=True)
def demo_pair(monkeypatch):
    monkeypatch.setattr(pair_modes, "smollm2", lambda: (DEMO / "target", DEMO / "draft"))


def test_every_way_is_measured_and_none_changes_an_answer(tmp_path, capsys):
    file = tmp_path / "figures.json"
    assert pair_modes.main([*SHORT, "--json", str(file)]) == 0
    found = {one["name"]: one for one in json.loads(file.read_text())["results"]}
    assert list(found) == [way.name for way in WAYS]
    assert found["off"]["over_off"] == 1.0
    assert all(len(one["tokens_per_s"]) == 2 and min(one["tokens_per_s"]) > 0 for one in found.values())
    assert all(found[name]["accepted_share"] is None for name in ("off", "int8 target, off"))
    assert all(0 <= (one["accepted_share"] or 0) <= 1 for one in found.values())
    assert all(one["num_differing"] == 0 for one in found.values())
    assert "exact, fixed blocks of 5" in capsys.readouterr().out


def test_an_answer_that_differs_fails_the_run(monkeypatch):
    answering = pair_modes.answering

    def wrong(*sizes):
        ways = answering(*sizes)
        return {**ways, "int8 target, exact": lambda number: ways["off"](1 - number)}

    monkeypatch.setattr(pair_modes, "answering", wrong)
    assert pair_modes.main(SHORT) == 1


def test_nonsense_is_refused(capsys):
    with pytest.raises(SystemExit):
        pair_modes.parse(["--prompts", "0"])
    assert "0 is less than 1" in capsys.readouterr().err
