"""The script for a card, rehearsed on a CPU with tiny shapes."""

import json

import pytest
import torch

from load_tests.cuda import __main__ as command
from load_tests.cuda.sections import SECTIONS


def records(folder):
    return [json.loads(line) for line in (folder / "cuda-rehearsal.jsonl").read_text().splitlines()]


def test_every_section_runs_and_the_answers_are_right(tmp_path):
    assert command.main(["--rehearse", "--folder", str(tmp_path)]) == 0
    found = records(tmp_path)
    assert list(dict.fromkeys(record["section"] for record in found)) == [each.__name__ for each in SECTIONS]
    assert [record["as_generate"] for record in found if "as_generate" in record] == [True]
    assert [record["equal"] for record in found if "equal" in record] == [True]
    rounds = [record for record in found if "accepted_per_round" in record]
    assert [(one["batch"], one["accepted_per_round"]) for one in rounds] == [(1, 5.0), (3, 5.0)]
    assert [one["pays_from"] > -1 for one in rounds] == [True, True]
    times = [
        value
        for record in found
        for name, value in record.items()
        if name.endswith("_ms") and name[:5] != "first"
    ]
    assert times
    assert all(ms > 0 for ms in times)


def test_a_section_that_fails_says_why_and_the_next_one_runs(tmp_path, monkeypatch):
    def breaks(sizes):
        yield {"before": 1}
        raise torch.OutOfMemoryError("CUDA out of memory")

    def works(sizes):
        yield {"after": 2}

    monkeypatch.setattr(command, "SECTIONS", (breaks, works))
    assert command.main(["--rehearse", "--folder", str(tmp_path)]) == 1
    found = records(tmp_path)
    assert found[0] == {"section": "breaks", "before": 1}
    assert found[1]["error"] == "OutOfMemoryError: CUDA out of memory"
    assert found[3] == {"section": "works", "after": 2}


def test_without_a_card_nothing_is_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command.main(["--folder", str(tmp_path)]) == command.NO_DEVICE
    assert "no CUDA device" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_sections_can_be_chosen(tmp_path):
    assert command.main(["--rehearse", "--folder", str(tmp_path), "--only", "card"]) == 0
    assert {record["section"] for record in records(tmp_path)} == {"card"}
    with pytest.raises(SystemExit):
        command.main(["--only", "nothing"])
