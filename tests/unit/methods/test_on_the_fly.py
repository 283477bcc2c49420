"""On-the-fly: the censored estimate, its goodput length, the finite-state machine and its cache."""

import numpy as np
import pytest

from adasd.cost_table import CostTable
from adasd.methods.drafting.goodput import Goodput, GoodputState
from adasd.methods.drafting.on_the_fly import LengthState, OnTheFly, Variant
from adasd.methods.policy import RoundOutlook
from tests.unit.methods.rounds import a_round


def outlook(cap: int = 16, draft_ms: float | None = 1.0, **known: object) -> RoundOutlook:
    return RoundOutlook(cap, 100, draft_ms=draft_ms, hop_ms=0.0, verify_ms=10.0, **known)  # type: ignore[arg-type]


def window(*rounds: tuple[int, int]) -> LengthState:
    state = LengthState()
    for num_accepted, num_drafted in rounds:
        state = OnTheFly().learn(state, a_round(num_accepted, num_drafted))
    return state


def test_full_blocks_are_censored_by_hand():
    # 3 + 3 + 1 accepted, one rejection: 7 / 8; accepted over drafted would give 7 / 9
    assert window((3, 3), (3, 3), (1, 3)).acceptance == pytest.approx(7 / 8)
    assert window().acceptance is None
    assert window((0, 0)).acceptance is None
    assert window((0, 4)).acceptance == 0.0


@pytest.mark.parametrize(("alpha", "length"), [(0.5, 3), (0.8, 3), (0.8, 5), (0.95, 8)])
def test_the_estimate_is_consistent_and_accepted_over_drafted_is_not(alpha, length):
    rng = np.random.default_rng(0)
    fails = rng.random((20_000, length)) >= alpha
    accepted = np.where(fails.any(axis=1), fails.argmax(axis=1), length)
    state = LengthState(tuple((int(v), length) for v in accepted))
    assert state.acceptance == pytest.approx(alpha, abs=0.01)  # five standard deviations
    assert accepted.mean() / length < alpha - 0.02


@pytest.mark.parametrize(("alpha", "length"), [(0.4, 2), (0.6, 3), (0.7, 4), (0.8, 6), (0.9, 10)])
def test_the_length_is_that_of_the_table_at_a_tenth(alpha, length):
    """Best lengths for i.i.d. acceptance and c = .1 (arXiv:2211.17192)."""
    share = round(100 * alpha)
    state = LengthState(((1, 1),) * share + ((0, 1),) * (100 - share))
    assert OnTheFly().decide(state, outlook()).max_tokens == length


def test_without_times_or_verdicts_it_starts_at_five_and_never_passes_the_cap():
    policy = OnTheFly()
    assert policy.decide(window(), outlook()).max_tokens == 5
    assert policy.decide(window((4, 4)), outlook(draft_ms=None)).max_tokens == 5
    assert policy.decide(window((4, 4)), outlook(cap=3)).max_tokens == 3
    assert policy.decide(window((0, 4)), outlook()).max_tokens == 1  # the published range begins at 1


def test_old_rounds_leave_the_window():
    policy = OnTheFly(window=2)
    state = LengthState()
    for num_accepted in (0, 0, 3, 3):
        state = policy.learn(state, a_round(num_accepted, 3))
    assert state.acceptance == 1.0


def test_the_machine_takes_one_step_at_a_time_and_stays_above_zero():
    policy, lengths = OnTheFly(Variant.FSM), []
    state = policy.start(None)
    assert policy.decide(state, outlook()).max_tokens == 5
    for num_accepted, num_drafted in [(5, 5), (6, 6), (3, 7), (0, 0), (0, 1), (1, 1)]:
        state = policy.learn(state, a_round(num_accepted, num_drafted))
        lengths.append(state.length)
    assert lengths == [6, 7, 6, 6, 1, 2]
    assert policy.decide(policy.start(LengthState(length=9)), outlook()).max_tokens == 9
    assert policy.decide(LengthState(length=9), outlook(cap=4)).max_tokens == 4


def cached(policy: OnTheFly, state: LengthState, behind: int, accepted: int, drafted: int) -> LengthState:
    """One round after which the token ``behind`` follows."""
    done = a_round(accepted, drafted)
    object.__setattr__(done.verdict, "next_token", behind)
    return policy.learn(state, done)


def test_the_cache_remembers_a_length_per_token():
    policy = OnTheFly(Variant.CACHED)
    state = cached(policy, policy.start(None), 7, 5, 5)  # after the prompt: only the state machine moves
    assert (state.length, dict(state.lengths)) == (6, {})
    state = cached(policy, state, 8, 2, 6)  # after 7: 6 was too long
    state = cached(policy, state, 7, 5, 5)  # after 8: 5 was fine
    assert dict(state.lengths) == {7: 5, 8: 6}
    assert (
        policy.decide(state, outlook()).max_tokens == 5
    )  # the cached length of 7, not the state machine's 6
    assert policy.decide(cached(policy, state, 99, 0, 0), outlook()).max_tokens == 6


def test_the_cache_forgets_what_was_used_longest_ago():
    policy = OnTheFly(Variant.CACHED, memory=2)
    state = policy.start(None)
    for behind in (1, 2, 1, 3, 4):
        state = cached(policy, state, behind, 1, 2)
    assert list(state.lengths) == [1, 3]
    assert policy.start(state).behind is None


# --------------------------------------------------------------------------- batches


def test_the_cost_table_interpolates_and_never_falls():
    table = CostTable()
    assert table.at(4) is None
    for tokens, ms in [(1, 10.0), (8, 9.0), (64, 24.0)]:
        table = table.add(tokens, ms)
    assert [table.at(n) for n in (1, 4, 8, 36, 64, 92)] == pytest.approx([10, 10, 10, 17, 24, 31])
    assert CostTable().add(8, 3.0).at(100) == 3.0


def test_the_cost_table_follows_a_change():
    table = CostTable().add(8, 100.0)
    for _ in range(200):
        table = table.add(8, 10.0)
    assert table.at(8) == pytest.approx(10.0, abs=0.2)


def priced(per_token_ms: float, batch_size: float) -> RoundOutlook:
    """Passes of 10 ms plus ``per_token_ms`` per token; survival 0.8 per token."""
    table = CostTable()
    for size in (1, 4, 16, 64, 256):
        table = table.add(size, 10 + per_token_ms * size)
    survival = tuple(0.8**k for k in range(1, 17))
    return outlook(survival=survival, cost=table, batch_size=batch_size, mean_block=5.0)


def test_goodput_drafts_less_the_more_sessions_share_a_pass():
    lengths = [
        Goodput().decide(GoodputState(), priced(0.5, batch)).max_tokens for batch in (1.0, 4.0, 16.0, 64.0)
    ]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] == 6
    assert lengths[-1] <= 1


def test_goodput_drafts_as_ever_where_a_batch_costs_nothing():
    assert Goodput().decide(GoodputState(), priced(0.0, 64.0)).max_tokens == 6
