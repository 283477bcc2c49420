"""The command line: bad input ends with one clear sentence and its own status."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager

import pytest

from adasd.errors import ConfigError
from load_tests.load import baselines, command, pieces
from load_tests.load.baselines import BEGIN, DOCS, END, ORDER, between_marks, markdown
from load_tests.load.result_file import read
from load_tests.load.scenarios import SCENARIOS
from load_tests.load.server_under_test import Server
from tests.unit.load_tests.load.fakes import files, serving


@pytest.fixture
def server_url():
    """A FakeServer in a thread of its own, since the command owns the main one's loop."""
    loop, told, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    found = {}

    async def serve():
        async with serving() as (fake, _):
            found["url"] = fake.url
            told.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert told.wait(60)
    yield found["url"]
    loop.call_soon_threadsafe(stop.set)
    thread.join(60)
    loop.close()


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["staedy"], 2, "there is no scenario 'staedy'; did you mean steady? known: smoke, steady, ramp"),
        (["xyz"], 2, "known: smoke"),
        (["steady", "--url", "http://127.0.0.1:9"], 1, "no server answers at http://127.0.0.1:9"),
        (["chaos", "--url", "http://127.0.0.1:9"], 2, "chaos kills processes"),
        (["steady", "--objective", "quick"], 2, "an objective is ttft=MS"),
        (["steady", "--doors", "ftp"], 2, "--doors takes http and grpc, not ftp"),
        (["steady", "--doors", ""], 2, "--doors takes http and grpc"),
        (["steady", "--doors", "grpc", "--url", "http://127.0.0.1:9"], 2, "--grpc HOST:PORT"),
        (["steady", "--set", "slots"], 2, "--set wants NAME=VALUE"),
        (["--compare", "nowhere.json", "neither.json"], 2, "cannot read nowhere.json"),
    ],
)
def test_bad_input_is_one_sentence(words, status, said, capsys):
    assert command.main([*words]) == status
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("adasd bench: ")
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize("words", [["steady", "--rate", "0"], ["steady", "--rate", "fast"], ["--scenario"]])
def test_words_that_cannot_be_read(words, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main([*words])
    assert ended.value.code == 2


def test_every_scenario_is_listed(capsys):
    assert command.main(["--list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown and scenario.about in shown for name, scenario in SCENARIOS.items())
    assert set(SCENARIOS) >= {"smoke", "steady", "ramp", "burst", "long-prompts", "mixed"}
    assert set(SCENARIOS) >= {"cancellations", "slow-readers", "malformed", "chaos", "soak"}


def test_no_scenario_at_all_lists_them_and_fails(capsys):
    assert command.main([]) == 2


def test_a_run_leaves_a_result_and_a_page_that_can_be_compared(server_url, tmp_path, capsys):
    words = ["steady", "--url", server_url, "--seconds", "0.3", "--rate", "50", "--objective", "ttft=60000"]
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    assert command.main([*words, "--json", str(first)]) == 0
    assert command.main([*words, "--json", str(second), "--seed", "1"]) == 0
    assert files(tmp_path) == {"a.json", "a.html", "b.json", "b.html"}
    assert read(first)["command"].startswith("adasd bench steady --url")
    assert "✓ passed" in capsys.readouterr().out
    assert command.main(["--compare", str(first), str(second)]) == 0
    assert "first token, median" in capsys.readouterr().out


def test_a_missed_objective_is_a_status(server_url, tmp_path):
    words = ["steady", "--url", server_url, "--seconds", "0.2", "--json", str(tmp_path / "a.json")]
    assert command.main([*words, "--objective", "ttft=0.001"]) == 1


def test_a_recorded_trace_decides_the_arrivals(server_url, tmp_path):
    trace = tmp_path / "trace.txt"
    trace.write_text("10.0\n10.1\n10.2\n")
    file = tmp_path / "a.json"
    assert command.main(["steady", "--url", server_url, "--trace", str(trace), "--json", str(file)]) in (0, 1)
    assert read(file)["answers"]["intended_s"] == pytest.approx(
        [read(file)["answers"]["intended_s"][0] + offset for offset in (0.0, 0.1, 0.2)], abs=0.001
    )


def test_a_soak_goes_on_where_its_record_says(server_url, tmp_path, capsys):
    record = tmp_path / "soak.json"
    words = [
        "soak",
        "--url",
        server_url,
        "--requests",
        "30",
        "--rate",
        "200",
        "--json",
        str(tmp_path / "a.json"),
    ]
    words += ["--resume", str(record)]
    assert command.main([*words, "--seconds", "0.05"]) == 0
    (piece,) = pieces.read(record)
    assert 0 < piece.num_requests < 30
    assert piece.num_failed == 0
    assert command.main(words) == 0
    assert pieces.num_done(pieces.read(record)) == 30
    assert command.main(words) == 0
    assert "has 30 of 30 requests already" in capsys.readouterr().out
    assert len(pieces.read(record)) == 2
    record.write_text("{}")
    assert command.main(words) == 2
    assert "is no record of a soak" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_named(server_url, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    words = ["smoke", "--url", server_url, "--requests", "2", "--json", str(tmp_path / "file" / "a.json")]
    assert command.main(words) == 2
    assert "cannot write" in capsys.readouterr().err


def test_settings_of_the_demo_server_are_nested():
    assert command.settings_of(["target.num_slots=8", "mode=off", "target.dtype=float32"]) == {
        "target": {"num_slots": 8, "dtype": "float32"},
        "mode": False,
    }


def test_baselines_print_a_row_for_each_scenario_and_mode(server_url, tmp_path):
    file = tmp_path / "a.json"
    command.main(["mixed", "--url", server_url, "--seconds", "0.3", "--rate", "50", "--json", str(file)])
    lines = list(markdown({"mixed": read(file)}))
    assert [line.split("|")[1].strip() for line in lines[4:8]] == [
        "mixed",
        "mixed, `off`",
        "mixed, `exact`",
        "mixed, `adaptive`",
    ]
    assert set(ORDER) <= set(SCENARIOS)


def test_baselines_leave_a_result_and_a_page_of_each_scenario(server_url, tmp_path, monkeypatch, capsys):
    server = contextmanager(lambda settings: iter([Server(server_url, grpc=None)]))
    monkeypatch.setattr(baselines, "demo_server", server)
    monkeypatch.setattr(baselines, "RESULTS", tmp_path / "pages")
    words = ["--folder", str(tmp_path), "--scenarios", "soak", "--soak-requests", "20"]
    assert baselines.main(words) == 0
    (file,) = tmp_path.glob("bench_soak-*.json")
    assert read(file)["figures"]["num_requests"] == 20
    assert (tmp_path / "pages" / f"{file.stem}.html").exists()
    assert "| soak | 20 | 0 |" in capsys.readouterr().out


def test_the_documentation_has_a_place_for_the_figures_and_nothing_else_changes():
    page = DOCS.read_text(encoding="utf-8")
    once = between_marks(page, "| a |\n")
    assert "| a |\n<!-- end of baselines -->" in once
    assert between_marks(once, "| b |\n") == once.replace("| a |", "| b |")
    before, after = page.partition(BEGIN)[0], page.partition(END)[2]
    assert once.startswith(before)
    assert once.endswith(after)
    with pytest.raises(ConfigError, match="the page has no"):
        between_marks("no marks", "text")
