"""The files of ``adasd eval --suite``: every series, and nothing specific to one machine."""

import json

from adasd.errors import ConfigError
from adasd.evaluate.evaluation import build
from cluster.evaluation.suite import DEMO, SERIES, write_all
from tests.unit.evaluate.test_method_figures import runs

ABOUT = {"commit": "0", "hardware": "-", "options": {"target": str(DEMO / "target")}, "methods": {}}


def test_every_series_is_written_and_can_be_repeated_elsewhere(tmp_path):
    asked = []

    def run(words, console):
        asked.append(words)
        return build(runs(), ABOUT)

    assert write_all(tmp_path / "out", 10, 3, run) == 0
    for series, words in zip(SERIES, asked, strict=True):
        assert words[: len(series.options)] == list(series.options)
        assert words[-4:] == ["--n", str(round(10 * series.share)), "--seed", "3"]
        found = json.loads((tmp_path / "out" / f"{series.name}.json").read_text())
        assert found["about"]["options"]["target"] == "models/demo/target"
        assert f"## {series.title}" in (tmp_path / "out" / "tables.md").read_text()
    for file in (tmp_path / "out").iterdir():
        assert str(DEMO) not in file.read_text()


def test_a_series_that_cannot_run_ends_it(tmp_path, capsys):
    def run(words, console):
        raise ConfigError("no such model")

    assert write_all(tmp_path, 1, 0, run) == 2
    assert f"{SERIES[0].name}: no such model" in capsys.readouterr().err
