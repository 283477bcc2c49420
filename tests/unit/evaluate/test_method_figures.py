"""Figures and intervals by hand."""

from dataclasses import replace

import pytest

from adasd.evaluate.compared_methods import method
from adasd.evaluate.evaluation import ALL, build
from adasd.evaluate.measure import AnswerRecord, MethodRun
from adasd.evaluate.method_figures import by_position, figures, modelled_speed_up

PLAIN = AnswerRecord("a", True, (1, 2, 3, 4, 5), 4, (), (), 0, 4.0, 6.0, None, None)


def answer(correct=True, group="a", ceiling=None, tokens=(1, 2, 3, 4, 5)) -> AnswerRecord:
    """Four decoded tokens in two rounds: 2 of 3 drafted tokens accepted, then 1 of 1 and the end."""
    return AnswerRecord(group, correct, tokens, 2, (3, 1), (2, 1), 1, 2.0, 1.5, ceiling, None)


def test_acceptance_by_position_leaves_out_what_was_not_judged():
    # (3 drafted, 2 accepted): all judged; (1, 1); (3, 0): one judged
    rejected = replace(answer(), drafted_per_round=(3,), accepted_per_round=(0,))
    acceptance, reached = by_position([answer(), rejected])
    assert reached == (3, 1, 1)
    assert acceptance == pytest.approx((2 / 3, 1.0, 0.0))


def test_the_modelled_speed_up_by_hand():
    assert modelled_speed_up(40, 10, 50, 0.1) == pytest.approx(40 / 15)
    assert modelled_speed_up(7, 7, 0, 0.3) == 1.0  # plain decoding


def test_figures_by_hand():
    ours = [answer(), answer(False, tokens=(1, 2, 9, 4, 5)), answer(None)]
    row = figures("m", 0.0, "all", ours, [PLAIN, PLAIN, replace(PLAIN, correct=None)])
    assert (row.num_answers, row.num_judged, row.accuracy) == (3, 2, 0.5)
    assert row.accuracy_change == -0.5
    assert row.same_answers == pytest.approx(2 / 3)
    assert (row.num_tokens, row.num_rounds, row.num_drafted, row.num_accepted) == (12, 6, 12, 9)
    assert row.tokens_per_round == 2.0
    assert row.relaxed_share == pytest.approx(3 / 12)
    assert row.speed_ups == pytest.approx((12 / 6.6, 12 / 7.2, 12 / 9.6))
    assert row.measured_speed_up == pytest.approx(2.0)  # 2 tokens per second against 1
    assert row.cpu_speed_up == pytest.approx(4.0)


def test_the_pair_of_a_relaxed_rule_by_hand():
    # 3 relaxed of 12 tokens, for a total variation of 0.5 + 0.25 + 0
    ours = [replace(answer(), distortion=cost) for cost in (0.5, 0.25, 0.0)]
    row = figures("m", 0.7, "all", ours, [PLAIN] * 3)
    assert (row.relaxed_share, row.distortion_share) == (0.25, 0.0625)


def test_what_one_answer_does_not_tell_is_told_by_no_figure():
    silent = replace(answer(), cpu_s=None, distortion=None)
    row = figures("m", 0.0, "all", [answer(), silent], [PLAIN, PLAIN])
    assert (row.cpu_s, row.cpu_speed_up, row.distortion, row.distortion_share) == (None,) * 4
    assert row.measured_speed_up == pytest.approx(2.0)
    by_cpu_of_plain = figures("m", 0.0, "all", [answer()], [replace(PLAIN, cpu_s=None)])
    assert (by_cpu_of_plain.cpu_s, by_cpu_of_plain.cpu_speed_up) == (1.5, None)


def test_plain_decoding_is_the_unit():
    row = figures("off", 0.0, "all", [PLAIN], [PLAIN])
    assert row.speed_ups == (1.0, 1.0, 1.0)
    assert (row.measured_speed_up, row.same_answers, row.relaxed_share) == (1.0, 1.0, 0.0)


def runs() -> list[MethodRun]:
    """Two groups; static-2 is the fastest static length in ``b`` only, static-4 elsewhere."""
    slow = {group: replace(answer(group=group), num_rounds=4) for group in "ab"}
    fast = {group: replace(answer(group=group), num_rounds=1) for group in "ab"}
    plain = tuple(replace(PLAIN, group=group) for group in "aab")
    return [
        MethodRun(method("off"), 0.0, plain),
        MethodRun(method("static-2"), 0.0, (slow["a"], slow["a"], fast["b"])),
        MethodRun(method("static-4"), 0.0, (fast["a"], fast["a"], slow["b"])),
        MethodRun(method("static-4+posterior"), 0.0, (fast["a"], fast["a"], fast["b"])),
        MethodRun(method("adasd"), 0.0, tuple(answer(group=group, ceiling=1.5) for group in "aab")),
    ]


def test_each_group_has_its_own_best_exact_static_length():
    report = build(runs(), {})
    assert report.groups == [ALL, "a", "b"]
    names = [report.best_static(0.0, group, 1).method for group in report.groups]
    assert names == ["static-4", "static-4", "static-2"]
    ours = next(row for row in report.of(0.0, "b") if row.method == "adasd")
    # 4 tokens in 2 rounds with 4 drafted against 4 in 1 with 4
    assert report.over_best_static(ours)[1] == pytest.approx((4 / 2.4) / (4 / 1.4))


def test_only_methods_that_learn_have_a_trace():
    report = build(runs(), {})
    assert [trace.method for trace in report.traces] == ["adasd"]
    assert report.traces[0].generation == (1.5, 1.5, 1.5)


def test_without_a_static_length_there_is_nothing_to_compare_with():
    report = build([runs()[0], runs()[4]], {})
    assert report.over_best_static(report.of(0.0)[1]) == (None, None, None)
