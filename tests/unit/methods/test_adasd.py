"""The generation threshold: hand-worked means, cold starts, and where a plain mean goes wrong."""

import math
from statistics import mean

import pytest

from adasd.methods.drafting.adasd import Adasd, CeilingScope, CeilingState, RunningMean
from adasd.methods.policy import RoundOutlook
from adasd.methods.registry import drafting_method
from adasd.rounds import StopRule
from tests.unit.methods.rounds import a_round, simulate

OUTLOOK = RoundOutlook(max_draft_tokens=16, remaining_tokens=100)


def test_running_mean_is_exact_until_its_memory_is_full():
    values = RunningMean()
    for value in (1.0, 2.0, 6.0):
        values = values.add(value, memory=3)
    assert (values.mean, values.count) == (3.0, 3)
    assert values.add(6.0, memory=3) == RunningMean(4.0, 3)  # 3 + (6 - 3) / 3


def falling(entropy: float) -> float:
    """P(accept | H): .97 at 0 nats, .68 at 1, .48 at 2, .17 at 5."""
    return 0.97 * math.exp(-0.35 * entropy)


def after(*rounds, policy=None, state=None):
    policy = policy or Adasd()
    state = state or policy.start(None)
    for done in rounds:
        state = policy.learn(state, done)
    return policy, state


def test_before_any_rejection_only_the_cap_ends_a_block():
    policy, state = after(a_round(3, 3, [0.1, 9.0, 0.2]), a_round(0, 0))
    rule = policy.decide(state, OUTLOOK)
    assert rule.max_tokens == 16
    assert rule.entropy_ceiling == math.inf


def test_ceiling_is_the_mean_entropy_of_first_rejected_tokens():
    policy, state = after(
        a_round(1, 3, [0.1, 2.0, 9.0]),  # 2.0 rejected; 9.0 saw a wrong prefix
        a_round(2, 2, [0.3, 0.4]),  # all accepted, below the ceiling
        a_round(0, 1, [1.0]),  # 1.0 rejected
    )
    assert policy.decide(state, OUTLOOK).entropy_ceiling == pytest.approx(1.5)  # (2.0 + 1.0) / 2


def test_a_token_accepted_by_relaxation_is_no_rejection():
    done = a_round(2, 2, [0.1, 3.0], distances=[0.1, 0.5], exact_ok=[True, False])
    policy, state = after(done)
    assert policy.ceiling(state) == math.inf


@pytest.mark.parametrize(
    ("num_global", "expected"),
    [
        (20, 1.1),  # kappa 8: (2 * 1.5 + 8 * 1.0) / 10
        (4, 7 / 6),  # the process has seen only 4: (2 * 1.5 + 4 * 1.0) / 6
        (0, 1.5),  # nothing to shrink towards
    ],
)
def test_a_request_is_shrunk_towards_the_process(num_global, expected):
    policy = Adasd()
    begun = policy.start(CeilingState(own=RunningMean(1.0, num_global)))
    _, state = after(a_round(0, 1, [2.0]), a_round(0, 1, [1.0]), policy=policy, state=begun)
    assert policy.ceiling(state) == pytest.approx(expected)


def test_process_scope_counts_every_rejection_alike():
    policy = Adasd(scope=CeilingScope.PROCESS)
    begun = policy.start(CeilingState(own=RunningMean(1.0, 98)))
    _, state = after(a_round(0, 1, [2.0]), a_round(0, 1, [1.0]), policy=policy, state=begun)
    assert policy.ceiling(state) == pytest.approx(1.01)  # (98 * 1.0 + 3.0) / 100


def test_entropies_that_are_missing_or_no_numbers_teach_nothing():
    policy, state = after(a_round(0, 1, [math.nan]), a_round(0, 1, [math.inf]), a_round(1, 2, []))
    assert policy.ceiling(state) == math.inf


def test_eight_full_acceptances_past_the_ceiling_raise_it_to_the_largest_entropy_accepted():
    past = [a_round(2, 2, [0.01, 0.2 + 0.1 * i]) for i in range(8)]
    policy, state = after(a_round(0, 1, [0.1]), *past[:7])
    assert policy.ceiling(state) == pytest.approx(0.1)
    state = policy.learn(state, past[7])
    assert policy.ceiling(state) == pytest.approx(0.9)  # held at the largest of .2 .. .9
    state = policy.learn(state, a_round(0, 1, [0.5]))
    assert policy.ceiling(state) == pytest.approx(0.5)  # (.1 + .9 + .5) / 3, no longer held


def test_blocks_that_the_cap_ended_neither_raise_the_ceiling_nor_break_the_streak():
    past, capped = a_round(2, 2, [0.0, 0.6]), a_round(2, 2, [0.0, 0.05])
    policy, state = after(a_round(0, 1, [0.1]), *[capped] * 50)
    assert policy.ceiling(state) == pytest.approx(0.1)
    _, state = after(*[past, capped] * 8, policy=policy, state=state)
    assert policy.ceiling(state) == pytest.approx(0.6)


def test_a_rejection_breaks_the_streak():
    past, failed = a_round(1, 1, [0.6]), a_round(0, 1, [0.1])
    policy, state = after(failed, *([past] * 7 + [failed]) * 5)
    assert policy.ceiling(state) == pytest.approx(0.1)


@pytest.mark.parametrize("initial", [0.0, 0.5, math.inf])
def test_a_draft_that_is_never_rejected_ends_up_at_the_cap(initial):
    policy = Adasd(initial_ceiling=initial)
    _, drafted, _ = simulate(policy, policy.start(None), 200, lambda entropy: 1.0)
    assert mean(drafted[-50:]) > 15


def test_a_low_mean_from_the_past_is_left_behind_by_a_draft_that_became_perfect():
    policy = Adasd()
    stuck = CeilingState(own=RunningMean(0.02, 1000))
    for start in (stuck, policy.start(stuck)):  # the process itself, and a request that inherits from it
        _, drafted, _ = simulate(policy, start, 120, lambda entropy: 1.0)
        assert mean(drafted[:8]) < 2
        assert mean(drafted[-30:]) > 14


def test_a_draft_that_is_always_rejected_keeps_blocks_short_and_not_empty():
    policy = Adasd()
    state, drafted, accepted = simulate(policy, policy.start(None), 1000, lambda entropy: 0.0)
    assert set(accepted) == {0}
    assert policy.ceiling(state) == pytest.approx(0.9, abs=0.15)  # mean of the first tokens' entropies
    assert 1 <= mean(drafted[-500:]) < 4


@pytest.mark.parametrize("start", [0.0, 0.5, 2.0, 5.0, math.inf])
def test_the_ceiling_converges_to_one_value_from_any_start(start):
    """About 1.5 nats; 1.41 to 1.58 at round 1000. Starts count as 4 rejections here."""
    policy = Adasd()
    state = CeilingState(own=RunningMean(start, 4)) if start < math.inf else policy.start(None)
    state, drafted, accepted = simulate(policy, state, 1000, falling)
    assert 1.4 <= policy.ceiling(state) <= 1.6
    assert 4.5 <= mean(drafted[-500:]) <= 6.5
    assert 1.5 <= mean(accepted[-500:]) <= 3


def test_the_ceiling_does_not_ratchet_down():
    """Entropies above T_G enter the mean, because the token that passes the ceiling stays in the block."""
    policy = Adasd()
    state, _, _ = simulate(policy, CeilingState(own=RunningMean(0.2, 100)), 4000, falling)
    assert policy.ceiling(state) > 1.3


def test_discarding_is_a_choice_of_its_own():
    state, done = CeilingState(), a_round(1, 3, [0.2, 1.5, 0.4])
    for name, drops in (("adasd", False), ("adasd-discard", True)):
        policy = drafting_method(name)
        assert policy.decide(policy.learn(state, done), OUTLOOK) == StopRule(
            OUTLOOK.max_draft_tokens, entropy_ceiling=1.5, drops_last=drops
        )


def test_as_published_the_ceiling_is_the_plain_mean_of_the_process():
    method = Adasd(scope=CeilingScope.PROCESS, patience=0, memory=10**9)
    shared = method.start(None)
    for entropy in (0.5, 1.0, 3.0):
        shared = method.learn(shared, a_round(0, 1, [entropy]))
    for _ in range(50):  # accepted in full above the ceiling
        shared = method.learn(shared, a_round(2, 2, [0.1, 9.0]))
    begun = method.start(shared)
    assert method.ceiling(begun) == pytest.approx(1.5)
    assert method.default_block == 20
