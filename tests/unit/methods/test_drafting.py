"""The drafting methods other than AdaSD's own."""

from dataclasses import replace

import pytest

from adasd.control.estimators import Estimates
from adasd.methods import adaptive_threshold
from adasd.methods.adaptive_threshold import ThresholdState, learned
from adasd.methods.drafting.adaedl import Adaedl
from adasd.methods.drafting.assisted import Assisted, Schedule, best_threshold
from adasd.methods.drafting.confidence import Confidence, FloorSchedule
from adasd.methods.drafting.goodput import Goodput, GoodputState, rates
from adasd.methods.drafting.static import Static
from adasd.methods.policy import RoundOutlook
from adasd.rounds import StopRule
from tests.unit.methods.rounds import a_round

OUTLOOK = RoundOutlook(max_draft_tokens=16, remaining_tokens=100)


def test_static_drafts_what_the_request_allows():
    assert Static().default_block == 5
    assert Static().decide(None, RoundOutlook(5, 100)).max_tokens == 5


def test_assisted_adds_two_or_takes_one():
    method = Assisted()
    state, lengths = method.start(None), []
    for num_accepted, num_drafted in [(5, 5), (7, 7), (8, 9), (0, 8), (0, 0), (0, 1), (0, 1)]:
        state = method.learn(state, a_round(num_accepted, num_drafted))
        lengths.append(state.length)
    assert lengths == [7, 9, 8, 7, 7, 1, 1]
    assert method.decide(replace(state, length=40), OUTLOOK).max_tokens == 16


@pytest.mark.parametrize(
    ("judged", "threshold"),
    [
        # at .7: no false positive, two of four misses: 0 + 3 * .5; at .3: one of two, none: .5; at .2: 1
        ([(0.9, True), (0.7, True), (0.5, False), (0.4, True), (0.3, True), (0.2, False)], 0.3),
        ([(0.9, True), (0.8, True), (0.7, True), (0.3, False), (0.2, False), (0.1, False)], 0.7),
        ([(0.5, True), (0.5, False)] * 3, 0.5),  # one threshold for equal probabilities
        ([(0.9, True), (0.1, False)] * 2, 0.4),  # too few
        ([(0.9, True)] * 9, 0.4),  # only one class
    ],
)
def test_the_roc_threshold_by_hand(judged, threshold):
    assert best_threshold(tuple(judged), 0.4) == threshold


def test_assisted_by_confidence_drafts_one_length_and_learns_from_judged_tokens():
    method = Assisted(schedule=Schedule.CONSTANT)
    state = method.start(None)
    assert method.decide(state, RoundOutlook(32, 100)) == StopRule(20, confidence_floor=0.4)
    done = a_round(3, 5)
    done = replace(done, drafted=replace(done.drafted, confidences=(0.9, 0.8, 0.7, 0.3, 0.2)))
    state = method.learn(method.learn(state, done), done)
    assert (
        state.judged == ((0.9, True), (0.8, True), (0.7, True), (0.3, False)) * 2
    )  # the fifth was not judged
    assert method.decide(state, OUTLOOK) == StopRule(16, confidence_floor=0.7)
    assert method.start(state).threshold == 0.4


@pytest.mark.parametrize(("bound", "ceiling"), [(0.1, 4.05), (0.4, 1.8), (0.5, 1.25), (0.8, 0.2), (1.0, 0.0)])
def test_adaedl_ceilings_of_the_table(bound, ceiling):
    """arXiv:2410.18351, gamma = .2."""
    assert Adaedl().decide(ThresholdState(bound), OUTLOOK).entropy_ceiling == pytest.approx(ceiling)


def test_threshold_moves_by_a_thousandth_as_published():
    state = ThresholdState(0.4)
    state = learned(state, a_round(2, 4))  # rate .5 < .9: up
    assert state == ThresholdState(pytest.approx(0.401), 0.5, 4)
    state = learned(state, a_round(4, 4))  # mean .75 < .9: up
    assert state == ThresholdState(pytest.approx(0.402), 0.75, 4)
    state = learned(ThresholdState(0.402, 1.0, 4), a_round(4, 4))  # fine, and all of the longest block: stays
    assert state == ThresholdState(pytest.approx(0.402), 1.0, 4)
    state = learned(state, a_round(2, 2))  # fine, but the block was cut short: down
    assert state == ThresholdState(pytest.approx(0.401), 1.0, 4)
    assert learned(state, a_round(0, 0)) == state


@pytest.mark.parametrize(("num_accepted", "end"), [(0, 1.0), (1, 0.0)])
def test_threshold_stays_between_zero_and_one(num_accepted, end, monkeypatch):
    monkeypatch.setattr(adaptive_threshold, "STEP", 0.5)
    state = ThresholdState(0.5, longest=8)
    for _ in range(100):
        state = learned(state, a_round(num_accepted, 1))
    assert state.threshold == pytest.approx(end)


def test_requests_go_on_at_the_process_threshold():
    assert Adaedl().start(ThresholdState(0.7)).threshold == 0.7
    assert Adaedl().start(None).threshold == 0.4


def test_confidence_compiles_to_a_floor():
    assert Confidence().decide(Confidence().start(None), OUTLOOK).confidence_floor == 0.4
    assert Confidence().decide(ThresholdState(0.6), OUTLOOK).confidence_floor == 0.6
    assert Confidence().learn(ThresholdState(0.4), a_round(0, 4)) == ThresholdState(0.4)
    assert (
        Confidence(schedule=FloorSchedule.DYNAMIC).learn(ThresholdState(0.4), a_round(0, 4)).threshold > 0.4
    )


# --------------------------------------------------------------------------- goodput


def measured(survival, draft_ms=1.0, verify_ms=10.0, hop_ms=0.0, per_token=0.0, cap=None):
    cap = cap or len(survival)
    return RoundOutlook(
        cap,
        100,
        survival=tuple(survival),
        draft_ms=draft_ms,
        hop_ms=hop_ms,
        verify_ms=verify_ms,
        verify_ms_per_token=per_token,
    )


def geometric(alpha, length=32):
    return [alpha**k for k in range(1, length + 1)]


@pytest.mark.parametrize(
    ("alpha", "cost", "length", "speed_up"),
    [
        (0.4, 0.05, 2, 1.42),
        (0.6, 0.1, 3, 1.67),
        (0.8, 0.1, 6, 2.47),
        (0.9, 0.2, 7, 2.37),
        (0.95, 0.02, 31, 9.95),
    ],
)
def test_best_length_of_the_table(alpha, cost, length, speed_up):
    """Best length and speed-up over plain decoding for i.i.d. acceptance."""
    outlook = measured(geometric(alpha), draft_ms=10 * cost)
    rule = Goodput().decide(GoodputState(), outlook)
    assert rule.max_tokens == length
    rate = rates(outlook)
    assert rate[length] / rate[0] == pytest.approx(speed_up, abs=0.006)


def test_nothing_is_drafted_where_drafting_does_not_pay():
    assert Goodput().decide(GoodputState(), measured(geometric(0.3), draft_ms=4.0)).max_tokens == 0


def test_hop_and_the_blocks_share_of_the_verdict_are_counted():
    cheap = Goodput().decide(GoodputState(), measured(geometric(0.8))).max_tokens
    assert Goodput().decide(GoodputState(), measured(geometric(0.8), per_token=1.0)).max_tokens < cheap
    assert Goodput().decide(GoodputState(), measured(geometric(0.8), hop_ms=50.0)).max_tokens == 0


def test_unmeasured_times_mean_five_tokens():
    assert Goodput().decide(GoodputState(), OUTLOOK).max_tokens == 5
    with pytest.raises(ValueError, match="measured"):
        rates(OUTLOOK)


def test_a_small_gain_does_not_change_the_length():
    outlook = measured(geometric(0.8))
    assert Goodput().decide(GoodputState(5), outlook).max_tokens == 5  # 6 is .7 % better
    assert Goodput().decide(GoodputState(1), outlook).max_tokens == 6


def test_zero_is_left_for_a_probe_after_a_second_and_taken_again():
    policy, bad = Goodput(), measured(geometric(0.1), draft_ms=4.0)
    state = GoodputState(0)
    for _ in range(99):
        state = policy.learn(state, a_round(0, 0, verify_ms=10.0))
    assert policy.decide(state, bad).max_tokens == 0
    state = policy.learn(state, a_round(0, 0, verify_ms=10.0))
    assert policy.decide(state, bad).max_tokens == 1
    state = policy.learn(state, a_round(0, 1, verify_ms=10.0))
    assert (state.length, state.idle_ms) == (0, 0.0)
    assert policy.decide(state, bad).max_tokens == 0
    good = measured(geometric(0.9), draft_ms=1.0)
    assert policy.decide(state, good).max_tokens == 10


def test_the_faster_the_pair_the_sooner_the_next_probe():
    policy, bad = Goodput(), measured(geometric(0.1), draft_ms=4.0)
    state = policy.learn(GoodputState(), a_round(0, 3, draft_ms=0.25, verify_ms=0.25))
    plain = 0
    while policy.decide(state, bad).max_tokens == 0:
        state = policy.learn(state, a_round(0, 0, draft_ms=0.0, verify_ms=0.25))
        plain += 1
    assert plain == 100  # of 0.25 ms, 50 times the 0.5 ms of the round that drafted
    state = policy.learn(state, a_round(0, 1, draft_ms=0.1, verify_ms=0.3))
    assert state == GoodputState(0, 0.0, pytest.approx(0.4))
    assert policy.decide(state, bad).max_tokens == 0


def test_one_hiccup_does_not_end_drafting_on_a_fast_pair():
    """A block of 5 takes 0.3 ms, a verdict 0.25 ms, and one block in the middle 20 ms."""
    policy, estimates, state = Goodput(), Estimates(), GoodputState()

    def decided():
        base, per_token = estimates.verify_ms.fit()
        return policy.decide(
            state,
            measured(
                estimates.survival.curve(16),
                estimates.draft_ms.value,
                base,
                estimates.hop_ms.value,
                per_token,
            ),
        ).max_tokens

    lengths = []
    for number in range(60):
        drafted = decided() if number else 5
        lengths.append(drafted)
        hiccup_ms = 20.0 if number == 30 else 0.0
        done = a_round(
            min(drafted, 4),
            drafted,
            draft_ms=(0.1 + 0.04 * drafted + hiccup_ms) * (drafted > 0),
            draft_compute_ms=0.04 * drafted,
            verify_ms=0.2 + 0.01 * drafted,
        )
        estimates, state = estimates.learn(done), policy.learn(state, done)
    assert min(lengths) >= 3
