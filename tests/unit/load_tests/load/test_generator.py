"""The open loop does not wait for a slow server, and a slow generator reports itself."""

from __future__ import annotations

import asyncio
import time
from itertools import islice, repeat

import pytest

from load_tests.load.answers import Ask, Outcome
from load_tests.load.generator import Generator, Strain, bottleneck, percentile, turns
from tests.leaks import nothing_runs
from tests.unit.load_tests.load.fakes import SerialDoor

ASK = Ask("test", (("user", "Hello"),))


def clock():
    zero_s = time.monotonic()
    return lambda: time.monotonic() - zero_s


async def test_latency_counts_from_the_intended_time():
    """20 requests within 0.2 s to a server that needs 30 ms each: the last one waits 0.4 s. A loop that waits for
    each answer would report 30 ms for all of them."""
    now = clock()
    generator = Generator({"door": SerialDoor(now, 0.03)}, now)
    await generator.open_loop("load", [number / 100 for number in range(20)], repeat(ASK), 100.0)
    await generator.settle(5.0)
    firsts = [answer.first_token_s for answer in generator.answers]
    assert len(firsts) == 20
    assert max(firsts) > 0.35
    assert [answer.intended_s for answer in generator.answers] == pytest.approx(
        [generator.phases[0].began_s + 0.01 * n for n in range(20)]
    )
    await generator.close()
    assert await nothing_runs()


async def test_a_blocked_generator_says_so():
    now = clock()

    class Blocking(SerialDoor):
        async def ask(self, ask, answer):
            time.sleep(0.05)  # noqa: ASYNC251
            await super().ask(ask, answer)

    generator = Generator({"door": Blocking(now, 0.0)}, now)
    await generator.open_loop("load", [number / 100 for number in range(10)], repeat(ASK), 100.0)
    await generator.settle(5.0)
    assert generator.strain().late_p99_s > 0.2
    assert "late" in bottleneck(generator.strain(), 0.05)
    await generator.close()


async def test_requests_beyond_the_bound_are_reported_not_hidden():
    now = clock()
    generator = Generator({"door": SerialDoor(now, 10.0)}, now, max_in_flight=3)
    await generator.open_loop("load", [0.0] * 5, repeat(ASK), 5.0)
    await asyncio.sleep(0.01)
    await generator.close()
    assert generator.strain().num_not_sent == 2
    assert "not sent" in bottleneck(generator.strain(), 1.0)
    assert [answer.outcome for answer in generator.answers] == [Outcome.CUT] * 5
    assert await nothing_runs()


async def test_a_closed_loop_keeps_so_many_going_and_sends_exactly_so_many():
    now = clock()
    generator = Generator({"door": SerialDoor(now, 0.001)}, now)
    await generator.closed_loop("load", 4, repeat(ASK), num_requests=10)
    assert len(generator.answers) == 10
    assert {answer.outcome for answer in generator.answers} == {Outcome.DONE}
    assert generator.num_in_flight == 0
    await generator.close()


async def test_a_closed_loop_may_have_more_clients_than_an_open_one_has_requests():
    now = clock()
    generator = Generator({"door": SerialDoor(now, 0.001)}, now, max_in_flight=3)
    await generator.closed_loop("load", 6, repeat(ASK), num_requests=12)
    assert {answer.outcome for answer in generator.answers} == {Outcome.DONE}
    assert generator.strain().num_not_sent == 0
    await generator.close()


async def test_a_closed_loop_ends_with_its_time():
    now = clock()
    generator = Generator({"door": SerialDoor(now, 0.01)}, now)
    await generator.closed_loop("load", 2, repeat(ASK), seconds=0.1)
    assert 0.1 <= now() < 20.0
    await generator.close()


async def test_what_takes_too_long_is_cut_and_counted():
    now = clock()
    generator = Generator({"door": SerialDoor(now, 10.0)}, now)
    await generator.open_loop("load", [0.0], repeat(ASK), 1.0)
    await generator.settle(0.05)
    (answer,) = generator.answers
    assert (answer.outcome, answer.error) == (Outcome.CUT, "cut at the end of the run")
    assert answer.ended_s > 0
    await generator.close()
    assert await nothing_runs()


async def test_doors_take_turns_unless_a_request_names_one():
    now = clock()
    doors = {name: SerialDoor(now, 0.0) for name in ("http", "grpc")}
    generator = Generator(doors, now)
    await generator.open_loop("load", [0.0] * 4, repeat(ASK), 1.0)
    await generator.open_loop("load", [0.0] * 2, repeat(Ask("test", door="grpc")), 1.0)
    chosen = [answer.door for answer in generator.answers]
    assert sorted(chosen[:2]) == sorted(chosen[2:4]) == ["grpc", "http"]
    assert chosen[4:] == ["grpc", "grpc"]
    await generator.close()


async def test_refusals_are_good_for_wrong_requests_only():
    now = clock()
    wrong = Ask("wrong", raw=b"{")
    for outcome, ask, expected in (
        (Outcome.REFUSED, ASK, Outcome.FAILED),
        (Outcome.REFUSED, wrong, Outcome.REFUSED),
        (Outcome.DONE, wrong, Outcome.FAILED),
        (Outcome.DONE, ASK, Outcome.DONE),
    ):
        generator = Generator({"door": SerialDoor(now, 0.0, outcome)}, now)
        await generator.open_loop("load", [0.0], repeat(ask), 1.0)
        await generator.settle(1.0)
        assert generator.answers[0].outcome is expected
        await generator.close()


@pytest.mark.parametrize(
    ("strain", "said"),
    [
        (Strain(), None),
        (Strain(late_p99_s=0.03), "late or later"),
        (Strain(loop_lag_p99_s=0.05), "timers"),
        (Strain(cpu_share=0.95), "95% of a core"),
    ],
)
def test_what_makes_a_generator_the_bottleneck(strain, said):
    found = bottleneck(strain, median_first_token_s=0.05)
    assert found is None if said is None else said in found


def test_lateness_is_measured_against_what_it_could_distort():
    assert bottleneck(Strain(late_p99_s=0.03), median_first_token_s=1.0) is None


def test_percentiles_are_values_that_occurred():
    assert percentile([], 0.5) == 0.0
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile(range(100), 0.99) == 99


def test_doors_take_turns_and_every_question_comes_through_both():
    chosen = list(islice(turns(("http", "grpc")), 400))
    assert all({chosen[at], chosen[at + 1]} == {"http", "grpc"} for at in range(0, 400, 2))
    assert {tuple(chosen[at : at + 2]) for at in range(0, 400, 2)} == {("http", "grpc"), ("grpc", "http")}
