"""Whole runs against a small server: measurements survive any failure, and nothing is left running."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from itertools import cycle

import httpx
import pytest

from load_tests.load import runner, scenarios, watch
from load_tests.load.answers import Ask, Outcome, Reply
from load_tests.load.doors import in_words
from load_tests.load.page import page
from load_tests.load.result_file import as_json, errors, read, write
from load_tests.load.result_table import sentences
from load_tests.load.runner import grown, run
from load_tests.load.scenarios import SCENARIOS, Scenario
from load_tests.load.server_under_test import Server, running_server
from load_tests.load.watch import ServerGone
from tests.leaks import nothing_runs
from tests.patience import soon
from tests.unit.load_tests.load.fakes import options, serving


def outcomes(done):
    return Counter(answer.outcome for answer in done.answers)


@pytest.mark.parametrize("name", ["smoke", "steady", "burst", "long-prompts", "mixed", "soak"])
async def test_scenarios_pass_on_a_good_server(name):
    async with serving() as (fake, _):
        done = await run(SCENARIOS[name], Server(fake.url, None), options(num_clients=3))
    assert (done.problems, done.ended_early) == ([], None)
    assert set(outcomes(done)) == {Outcome.DONE}
    assert all(answer.num_tokens == 5 and answer.num_drafted == 4 for answer in done.answers)
    assert await nothing_runs()


async def test_clients_that_leave_really_leave():
    async with serving() as (fake, _):
        done = await run(SCENARIOS["cancellations"], Server(fake.url, None), options())
        await soon(lambda: fake.num_left > 0)
    assert outcomes(done)[Outcome.LEFT] > 0
    assert done.problems == []


async def test_slow_readers_take_their_time():
    async with serving() as (fake, _):
        done = await run(SCENARIOS["slow-readers"], Server(fake.url, None), options())
    slow = [answer for answer in done.answers if answer.ask.kind == "slow reader"]
    assert slow
    assert min(answer.total_s for answer in slow) > 1.0


async def test_malformed_requests_have_to_be_refused():
    async with serving() as (fake, _):
        done = await run(SCENARIOS["malformed"], Server(fake.url, None), options())
    counted = outcomes(done)
    assert counted[Outcome.REFUSED] > 0
    assert counted[Outcome.FAILED] == 0 or all(
        a.error == "a malformed request was answered" for a in done.answers if a.outcome is Outcome.FAILED
    )


@pytest.mark.parametrize("hangs", [False, True])
async def test_streams_that_pause_beside_large_prompts_are_a_problem(hangs, monkeypatch):
    monkeypatch.setattr(scenarios, "LARGE_EVERY_S", 0.1)
    async with serving() as (fake, _):
        fake.pause_s = 0.25 if hangs else 0.0
        done = await run(SCENARIOS["large-prompts"], Server(fake.url, None), options(seconds=0.3))
    large = [answer.outcome for answer in done.answers if answer.ask.kind == "large"]
    assert large == [Outcome.REFUSED] * 24
    assert done.found["longest_pause_s"] > 0.2 or not hangs
    assert [problem.partition(" for ")[0] for problem in done.problems] == ["a stream paused"] * hangs


async def test_the_knee_is_found_and_reported():
    async with serving() as (fake, _):
        done = await run(SCENARIOS["ramp"], Server(fake.url, None), options(rate_per_s=400.0, seconds=0.1))
    assert done.notes[0].startswith("knee:")
    assert done.found["knee_per_s"] >= 50.0


async def test_a_server_that_mixes_texts_up_is_found_out():
    async with serving() as (fake, _):
        fake.scrambled = cycle("abcdefg")
        done = await run(
            SCENARIOS["soak"],
            Server(fake.url, None),
            options(num_requests=100, rate_per_s=None, seconds=None),
        )
    assert "different texts" in done.problems[0]


async def test_slots_that_stay_taken_are_found_out(monkeypatch):
    monkeypatch.setattr(runner, "IDLE_WITHIN_S", 0.2)
    async with serving() as (fake, _):

        async def play(stage):
            await SCENARIOS["smoke"].play(stage)
            fake.leases = 2

        done = await run(Scenario("leak", "", play), Server(fake.url, None), options())
    assert done.problems == ["with nobody asking, the service still holds 2 leases"]


async def test_a_server_that_dies_in_the_middle_ends_the_run_with_what_there_is(monkeypatch, tmp_path):
    monkeypatch.setattr(runner, "GONE_AFTER_S", 0.3)
    monkeypatch.setattr(watch, "PERIOD_S", 0.1)
    async with serving() as (fake, server):

        async def play(stage):
            await SCENARIOS["smoke"].play(stage)
            fake.hangs = True
            asyncio.get_running_loop().call_later(0.2, asyncio.ensure_future, server.cleanup())
            await SCENARIOS["smoke"].play(stage)
            await asyncio.sleep(30.0)

        done = await run(Scenario("dies", "", play), Server(fake.url, None), options())
    assert "stopped answering" in done.ended_early
    assert outcomes(done)[Outcome.DONE] == 12
    write(tmp_path / "a.json", as_json(done, {}))
    kept = read(tmp_path / "a.json")
    assert kept["figures"]["outcomes"]["done"] == 12
    assert kept["ended_early"] in list(sentences(kept))[-1]
    assert "stopped answering" in page(kept)


async def test_an_interrupted_run_keeps_what_was_measured():
    async with serving() as (fake, _):
        running = asyncio.ensure_future(
            run(SCENARIOS["steady"], Server(fake.url, None), options(seconds=60.0))
        )
        await soon(lambda: fake.num_told > 10)
        running.cancel()
        done = await running
    assert done.was_interrupted
    assert done.ended_early.startswith("interrupted after")
    assert outcomes(done)[Outcome.DONE] > 5
    assert await nothing_runs()


async def test_an_interrupted_soak_still_looks_whether_anything_grew():
    async with serving() as (fake, _):
        asked = options(num_requests=400, seconds=60.0)
        running = asyncio.ensure_future(run(SCENARIOS["soak"], Server(fake.url, None), asked))
        await soon(lambda: fake.num_told > 30)  # of which 20 to warm up
        running.cancel()
        done = await running
    assert done.was_interrupted
    assert done.before is not None
    assert done.after is not None
    assert set(outcomes(done)) == {Outcome.DONE}
    assert await nothing_runs()


async def test_a_server_that_refuses_the_first_request_is_reported():
    async with serving() as (fake, _):
        server = Server(f"{fake.url}/elsewhere", None)
        with pytest.raises(ServerGone, match="first request over http"):
            await run(SCENARIOS["smoke"], server, options())
    assert await nothing_runs()


def test_a_server_that_is_not_there_is_reported_in_one_sentence():
    with pytest.raises(ServerGone, match=r"no server answers at http://127\.0\.0\.1:9 .*adasd serve"):
        running_server("http://127.0.0.1:9", None, None)


async def test_a_server_that_is_not_ready_says_why():
    async with serving() as (fake, _):
        fake.is_ready = False
        with pytest.raises(ServerGone, match="the target loads"):
            await asyncio.to_thread(running_server, fake.url, None, None)


def test_an_html_page_in_place_of_reasons_is_no_traceback(monkeypatch):
    page = httpx.Response(503, text="<html>503 Service Unavailable</html>")
    monkeypatch.setattr(httpx, "get", lambda *_, **__: page)
    with pytest.raises(ServerGone, match="is not ready: it gives no reason"):
        running_server("http://there", None, None)


async def test_rates_do_not_count_the_warm_up():
    async with serving() as (fake, _):
        fake.pause_s = 0.01
        asked = options(num_requests=100, rate_per_s=None, seconds=None, num_clients=1)
        done = await run(SCENARIOS["soak"], Server(fake.url, None), asked)
    (phase,) = done.phases
    assert done.began_s == phase.began_s > 0.1
    assert done.seconds == pytest.approx(done.ended_s - phase.began_s)
    result = as_json(done, {})
    assert result["figures"]["answers_per_s"] == pytest.approx(100 / done.seconds)
    assert sum(result["timeline"]["done"]) == 100


async def test_an_objective_that_is_missed_fails_the_scenarios_that_have_one():
    from cluster.simulation.objective import Objective

    strict = options(objective=Objective(first_token_ms=0.001))
    async with serving() as (fake, _):
        missed = await run(SCENARIOS["steady"], Server(fake.url, None), strict)
        ignored = await run(SCENARIOS["smoke"], Server(fake.url, None), strict)
    assert "met the objective" in missed.problems[0]
    assert ignored.problems == []


def test_growth_is_named_and_noise_is_not():
    before = {"resident_mb": 1000.0, "open_files": 100.0, "threads": 50.0}
    assert list(grown("x", before, {"resident_mb": 1100.0, "open_files": 110.0, "threads": 55.0})) == []
    assert list(grown("x", before, {**before, "open_files": 500.0})) == [
        "open_files of x grew from 100 to 500"
    ]
    assert list(grown("x", None, before)) == []


async def test_the_result_survives_being_written(tmp_path):
    async with serving() as (fake, _):
        done = await run(SCENARIOS["mixed"], Server(fake.url, None), options())
    result = as_json(done, {"commit": "abc"})
    write(tmp_path / "deep" / "a.json", result)
    kept = read(tmp_path / "deep" / "a.json")
    assert kept["commit"] == "abc"
    assert {kind["name"] for kind in kept["kinds"]} == {"off", "exact", "adaptive"}
    assert len(kept["answers"]["first_token_s"]) == len(done.answers)
    text = page(kept)
    assert "commit abc" in text
    assert not re.search(r"""(src|href)=|@import|url\(""", text)  # one file


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (
            400,
            {"code": "context_length_exceeded", "message": "too long by 3"},
            "the context is full: too long by 3",
        ),
        (400, {"code": "invalid", "message": "seed is -1"}, "refused (400): seed is -1"),
        (502, None, "a proxy answers for the server (502)"),
    ],
)
def test_errors_are_told_in_words(status, body, words):
    assert in_words(status, json.dumps({"error": body}) if body else "<h1>Bad Gateway</h1>") == words


def test_the_most_frequent_errors_are_kept_and_shown():
    said = ["a"] * 3 + ["b"] * 5 + [f"c{i}" for i in range(9)]
    failed = [Reply(Ask("x"), "http", 0, 0, outcome=Outcome.FAILED, error=what) for what in said]
    fine = Reply(Ask("x"), "http", 0, 0, outcome=Outcome.LEFT, error="b")
    found = errors([*failed, fine])
    assert found[:2] == [{"what": "b", "num_answers": 5}, {"what": "a", "num_answers": 3}]
    assert len(found) == 5
