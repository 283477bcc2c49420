"""Processes have the rates that they are asked for; traces keep their times, and bad ones are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from adasd.errors import ConfigError
from cluster.simulation.arrivals import arrivals


def test_poisson_arrivals_are_independent_and_rise():
    times_s = arrivals("poisson:rate=50,seconds=400", seed=1).times_s
    gaps = np.diff(times_s)
    assert (gaps >= 0).all()
    assert times_s[-1] < 400
    # 20,000 expected, standard deviation 141: five of them fail one seed in a million
    assert abs(len(times_s) - 20_000) < 5 * 141
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=0.05)
    same, other = (arrivals("poisson:rate=50,seconds=400", seed=seed).times_s for seed in (1, 2))
    assert times_s.tolist() == same.tolist() != other.tolist()


def test_a_day_swings_between_low_and_high():
    times_s = arrivals("diurnal:low=1,high=20,period=1000,seconds=4000", seed=2).times_s
    phase = times_s % 1000
    noon, night = ((phase > 450) & (phase < 550)).sum() / 400, ((phase < 50) | (phase > 950)).sum() / 400
    assert noon == pytest.approx(20, rel=0.1)
    assert night < 2.0


def test_bursts_come_at_once():
    times_s = arrivals("bursts:rate=1,size=30,every=20,seconds=100", seed=3).times_s
    assert (np.diff(times_s) >= 0).all()
    assert [(times_s == at_s).sum() for at_s in (20, 40, 60, 80, 100)] == [
        30,
        30,
        30,
        30,
        0,
    ]  # none at the very end


def test_a_trace_starts_at_zero_and_keeps_its_tokens(tmp_path: Path):
    file = tmp_path / "trace.jsonl"
    file.write_text(
        "".join(json.dumps({"at_s": at, "tokens": n}) + "\n" for at, n in ((5, 10), (5, 20), (7.5, 30)))
    )
    found = arrivals(str(file), seed=0)
    assert found.times_s.tolist() == [0.0, 0.0, 2.5]
    assert found.num_tokens is not None
    assert found.num_tokens.tolist() == [10, 20, 30]


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ("1\n3\n2\n", "line 3: 2 s comes behind 3 s; sort the trace by time"),
        ("", "holds no request"),
        ("1\nx\n", "line 2: expected seconds or an object with at_s"),
        ('{"at_s": 1, "tokens": 5}\n2\n', "1 of 2 lines have tokens"),
        ('{"at_s": 1, "tokens": 0}\n', "line 1: an answer of 0 tokens"),
        ("nan\n", "line 1"),
        ("NaN\n", "line 1"),
    ],
)
def test_bad_traces_are_refused_in_one_sentence(tmp_path: Path, lines: str, sentence: str):
    file = tmp_path / "trace"
    file.write_text(lines)
    with pytest.raises(ConfigError) as caught:
        arrivals(str(file), seed=0)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("poisson", "poisson needs rate"),
        ("poisson:rate=-1", "rate must be above 0"),
        ("poisson:rate=x", "rate must be a number"),
        ("poisson:speed=1", "poisson has no 'speed'"),
        ("diurnal:low=5,high=1", "low cannot exceed high"),
        ("no-such-file", "neither a file nor one of"),
    ],
)
def test_bad_processes_are_refused(text: str, sentence: str):
    with pytest.raises(ConfigError, match=sentence):
        arrivals(text, seed=0)
