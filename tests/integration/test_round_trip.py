"""The round-trip benchmark runs, and its printed and written figures add up."""

from __future__ import annotations

import json

import pytest

from load_tests.latency import round_trip


def test_figures_are_quantiles():
    figures = round_trip.RoundTripTimes.of([float(i) for i in range(1, 101)])
    assert figures.median == figures.mean == 50.5
    assert 90.0 < figures.p90 < 92.0
    assert 99.0 < figures.p99 <= 100.0


def test_a_short_run_reports_table_and_json(tmp_path, capsys):
    report = tmp_path / "round_trip.json"
    status = round_trip.main(["--rounds", "50", "--warm-up", "20", "--json", str(report)])
    written = json.loads(report.read_text())
    assert written["rounds"] == 50
    assert 0.1 < written["ms"]["median"] <= written["ms"]["p99"] < 1000.0
    assert status == (0 if written["ms"]["median"] <= round_trip.GOAL_MS else 1)
    assert f"{written['ms']['median']:.3f}" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [["--rounds", "1"], ["--warm-up", "-1"], ["--rounds", "many"], ["--turbo"]])
def test_a_wrong_option_is_refused(wrong, capsys):
    with pytest.raises(SystemExit) as refusal:
        round_trip.main(wrong)
    assert refusal.value.code == 2
    assert wrong[0] in capsys.readouterr().err
