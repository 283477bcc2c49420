"""The figures of the pipelining benchmark, and its timed engine."""

from __future__ import annotations

import time

import pytest

from adasd.rounds import DraftCall, OpenCall, SamplingTransform, StopRule, VerifyCall
from load_tests.latency import pipelining
from load_tests.latency.pipelining import Case, RoundShare, RoundTrace, missed, rate_of, share_of
from load_tests.latency.timed_engine import Costs, TimedEngine

PIPELINED = Case("p", Costs(draft_ms=1.0, verify_ms=10.0, acceptance=0.9), block_len=4, mode="pipelined")


def engine(
    acceptance: float = 1.0, draft_ms: float = 1.0, verify_ms: float = 4.0, second: float = 0.0
) -> TimedEngine:
    made = TimedEngine({"s": Costs(draft_ms, verify_ms, acceptance, seed=1, second=second)})
    made.open(OpenCall("s", SamplingTransform(), 4000))
    return made


def test_a_draft_takes_a_step_per_token_and_a_verdict_one():
    made = engine()
    made.submit(DraftCall("s", 1, 0, (5,), StopRule(3)))
    began_s = time.perf_counter()
    assert [len(made.step()) for _ in range(3)] == [0, 0, 1]
    assert 3e-3 <= time.perf_counter() - began_s < 1.0
    made.submit(VerifyCall("s", 2, 0, (5,), (6, 7, 8)))
    (verdict,) = made.step()
    assert (verdict.num_accepted, verdict.compute_ms) == (3, 4.0)
    assert made.num_pending == 0


def test_a_draft_is_superseded_between_its_tokens():
    made = engine()
    made.submit(DraftCall("s", 1, 0, (5,), StopRule(3)))
    made.step()
    made.submit(DraftCall("s", 2, 0, (5,), StopRule(1)))
    assert [answer.epoch for answer in made.step()] == [2], "the replaced one has no result"


def test_the_draft_is_right_as_often_as_it_should_be():
    made = engine(acceptance=0.7, draft_ms=0.0, verify_ms=0.0, second=0.6)
    made.submit(DraftCall("s", 1, 0, (0,), StopRule(2000, want_runner_ups=True)))
    answers = []
    while not answers:
        answers = made.step()
    right = sum(token == (i + 1) % made.vocab_size for i, token in enumerate(answers[0].tokens))
    assert 0.65 < right / 2000 < 0.75  # six standard deviations are 0.06; the seed is fixed
    seconds = sum(token == (i + 1) % made.vocab_size for i, token in enumerate(answers[0].runner_ups))
    assert 0.5 < seconds / (2000 - right) < 0.7, "only where the token is wrong"
    assert all(a != b for a, b in zip(answers[0].tokens, answers[0].runner_ups, strict=True))


def trace(ahead: list[bool], times_ms: list[float]) -> RoundTrace:
    made = RoundTrace()
    now_s = 0.0
    warm = pipelining.WARM_UP_ROUNDS
    for hit, time_ms in zip([False] * warm + ahead, [1.0] * warm + times_ms, strict=True):
        now_s += 1e-3 * time_ms
        made.at_s.append(now_s)
        made.tokens.append(5)
        made.ahead.append(hit)
    return made


def test_the_ideal_depends_on_whether_a_block_was_drafted_ahead():
    found = share_of(PIPELINED, trace([True, True, False, True], [10.0, 12.0, 14.0, 12.5]))
    assert found.ideal_ms == pytest.approx((3 * 10.0 + 14.0) / 4)
    assert found.round_ms == pytest.approx((3 * 12.0 + 14.0) / 4)  # medians
    assert found.mean_ms == pytest.approx(48.5 / 4)
    assert (found.hit_rate, found.draft_ms) == (0.75, 5.0)


def test_tokens_per_second_leave_out_the_warm_up():
    found = rate_of(PIPELINED, trace([True, False], [10.0, 10.0]))
    assert found.tokens_per_s == pytest.approx(500.0)
    assert found.hit_rate == 0.5


def test_only_pipelined_cases_can_miss_the_goal():
    slow = {
        mode: RoundShare(5.0, 5.0, 1.0, mode, ideal_ms=5.0, round_ms=6.0, mean_ms=6.0, hit_rate=1.0)
        for mode in ("pipelined", "sequential")
    }
    assert missed(list(slow.values())) == [slow["pipelined"]]


def test_cases_have_names_of_their_own():
    names = [case.name for case in (*pipelining.round_cases(), *pipelining.link_cases())]
    assert len(set(names)) == len(names) == 42


@pytest.mark.parametrize("wrong", [["--rounds", "0"], ["--seconds", "0.5"], ["--fast"]])
def test_a_wrong_option_is_refused(wrong, capsys):
    with pytest.raises(SystemExit) as refusal:
        pipelining.main(wrong)
    assert refusal.value.code == 2
    assert wrong[0] in capsys.readouterr().err
