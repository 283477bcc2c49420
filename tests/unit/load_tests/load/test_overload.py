"""The verdict on a load beyond the knee: what is a problem, and which refusals are allowed."""

from __future__ import annotations

import asyncio

import pytest

from load_tests.load.answers import Ask, Outcome, Reply
from load_tests.load.overload import HEALTH_TIMEOUT_S, asking_health, judge
from tests.unit.load_tests.load.fakes import serving


def reply(outcome: Outcome = Outcome.DONE, total_s: float = 0.1) -> Reply:
    made = Reply(Ask("chat"), "http", 10.0, 10.0, chunks_s=[10.0 + total_s], ended_s=10.0 + total_s)
    made.outcome = outcome
    return made


AT_KNEE = [reply(total_s=0.2)] * 10


def test_quick_refusals_beside_answers_as_quick_as_before_are_no_problem():
    over = [*[reply(total_s=0.25)] * 5, *[reply(Outcome.OVERLOADED, 0.05)] * 50]
    judged = judge(AT_KNEE, over, [0.01] * 10)
    assert (judged.num_answered, judged.num_refused, list(judged.problems())) == (5, 50, [])
    assert "5 answered, 50 refused (50 ms p99)" in str(judged)


@pytest.mark.parametrize(
    ("over", "health_s", "problem"),
    [
        ([reply(), reply(Outcome.CUT)], [0.01], "1 requests ended without"),
        ([reply(), reply(Outcome.FAILED)], [0.01], "1 requests ended without"),
        ([reply(Outcome.OVERLOADED)], [0.01], "nothing was answered"),
        ([reply(), reply(Outcome.OVERLOADED, 11.0)], [0.01], "refusals took 11000 ms"),
        ([reply()], [30.0], "/health took 30000 ms"),
        ([reply()], [], "/health took"),
        ([reply(total_s=2.0)], [0.01], "admitted requests waited 10.0 times as long"),
    ],
)
def test_what_must_not_be_is_said(over, health_s, problem):
    (said,) = judge(AT_KNEE, over, health_s).problems()
    assert said.startswith(problem)


def test_a_generator_that_is_late_does_not_charge_the_server():
    late = reply(Outcome.OVERLOADED, total_s=3.0)
    late.sent_s += 2.95
    judged = judge(AT_KNEE, [reply(), late], [0.01])
    assert judged.refused_p99_s == pytest.approx(0.05)
    assert list(judged.problems()) == []


async def test_health_is_asked_all_the_while_and_a_server_that_is_gone_is_never_well():
    async with serving() as (fake, _), asking_health(fake.url) as took_s:
        while not took_s:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert took_s[0] < 10.0
    async with asking_health("http://127.0.0.1:9") as took_s:
        while not took_s:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert took_s[0] == HEALTH_TIMEOUT_S
