"""Figures of answers, against counts by hand."""

from __future__ import annotations

import pytest

from adasd.requests import Mode
from cluster.simulation.objective import Objective
from load_tests.demo_prompts import examples
from load_tests.load.answers import Ask, Outcome, Reply
from load_tests.load.goodput import meets
from load_tests.load.load_figures import by_kind, figures, timeline, worded_differently

QUESTION = examples(1)[0]


def answer(intended_s=0.0, first_s=0.1, per_token_s=0.01, tokens=11, outcome=Outcome.DONE, **more):
    ask = Ask(more.pop("kind", "chat"), (("user", more.pop("prompt", "Hello")),), mode=more.pop("mode", None))
    chunks = [intended_s + first_s, intended_s + first_s + per_token_s * (tokens - 1)]
    made = Reply(ask, "http", intended_s, intended_s, chunks_s=chunks, ended_s=chunks[-1], num_tokens=tokens)
    made.outcome, made.text = outcome, more.pop("text", "same")
    made.num_drafted, made.num_accepted = 10, 5
    assert not more
    return made


def test_times_rates_and_goodput():
    objective = Objective(first_token_ms=500, per_token_ms=50)
    answers = [
        answer(),
        answer(first_s=0.6),  # the first token is late
        answer(per_token_s=0.06),  # tokens are slow
        answer(outcome=Outcome.FAILED),
    ]
    found = figures("all", answers, 2.0, objective)
    assert found.outcomes == {"done": 3, "failed": 1}
    assert (found.answers_per_s, found.tokens_per_s, found.goodput_per_s) == (1.5, 16.5, 0.5)
    assert found.attainment == 0.25
    assert found.first_token_ms.p50 == pytest.approx(100)
    assert found.first_token_ms.p99 == pytest.approx(600)
    assert found.acceptance == 0.5
    assert found.right is None


def test_nothing_gives_no_times():
    found = figures("all", [], 0.0, Objective())
    assert (found.num_requests, found.first_token_ms.p50, found.acceptance) == (0, None, None)


def test_answers_are_judged_by_the_task():
    right, wrong = answer(text=QUESTION.answer), answer(text="No idea.")
    for one in (right, wrong):
        one.ask = Ask("chat", (("user", QUESTION.prompt),), example=QUESTION)
    assert figures("all", [right, wrong], 1.0, Objective()).right == 0.5


def test_a_client_that_left_is_judged_by_what_it_saw():
    objective = Objective()
    assert meets(objective, answer(outcome=Outcome.LEFT))
    assert not meets(objective, answer(outcome=Outcome.LEFT, first_s=9.0))
    assert meets(objective, answer(outcome=Outcome.REFUSED))
    assert not meets(objective, answer(outcome=Outcome.OVERLOADED))


@pytest.mark.parametrize("mode", [None, Mode.OFF, Mode.EXACT])
def test_two_texts_for_one_greedy_question_are_noticed(mode):
    assert worded_differently([answer(mode=mode), answer(mode=mode)]) == []
    assert len(worded_differently([answer(mode=mode), answer(mode=mode, text="other")])) == 1


def test_off_and_exact_have_to_agree_but_adaptive_need_not():
    off, exact = answer(mode=Mode.OFF), answer(mode=Mode.EXACT, text="other")
    assert len(worded_differently([off, exact])) == 1
    assert worded_differently([off, answer(mode=Mode.ADAPTIVE, text="other")]) == []


def test_kinds_keep_their_order():
    kinds = by_kind([answer(kind="b"), answer(kind="a"), answer(kind="b")])
    assert {name: len(own) for name, own in kinds.items()} == {"b": 2, "a": 1}


def test_the_timeline_counts_each_second():
    line = timeline([answer(0.2), answer(1.0, first_s=1.5), answer(1.5, outcome=Outcome.FAILED)], [], 3.2)
    assert line.seconds == [0, 1, 2, 3]
    assert line.sent == [1, 2, 0, 0]
    assert line.done == [1, 0, 1, 0]
    assert line.failed == [0, 1, 0, 0]
    assert line.in_flight == [1, 2, 1, 0]
    assert line.first_token_p50_ms[2] == pytest.approx(1500)
    assert line.running == [None] * 4
