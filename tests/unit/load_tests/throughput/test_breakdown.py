"""Stopwatches, and a whole run on a random pair."""

import json
from itertools import count

from adasd.engine.engine import TorchEngine
from load_tests.throughput import breakdown
from load_tests.throughput.breakdown import PARTS, Stopwatches
from tests import pairs


def test_time_within_an_inner_part_counts_for_that_one_only():
    ticks = count()
    watches = Stopwatches(clock=lambda: float(next(ticks)))
    inner = watches.timed("target", lambda: "answer")
    outer = watches.timed("engine", lambda: (inner(), inner())[1])
    assert outer() == "answer"
    assert (watches.seconds["target"], watches.seconds["engine"]) == (2.0, 3.0)


def test_a_whole_run_counts_every_part_and_takes_the_stopwatches_off_again(tmp_path, capsys):
    target, draft = pairs.write_pair(tmp_path)
    step, file = TorchEngine.step, tmp_path / "figures.json"
    arguments = ["--target", str(target), "--draft", str(draft), "--prompts", "1", "--repeats", "1"]
    assert breakdown.main([*arguments, "--max-tokens", "12", "--json", str(file)]) == 0
    assert TorchEngine.step is step
    found = json.loads(file.read_text())["microseconds_per_token"]
    assert set(found["exact"]) == set(PARTS)
    assert min(seconds for part, seconds in found["exact"].items() if part != "sampling") > 0
    assert found["off"]["draft"] == found["off"]["sampling"] == 0
    assert "per token" in capsys.readouterr().out
