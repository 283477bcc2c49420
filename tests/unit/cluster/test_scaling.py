"""The scaling policy in virtual time: each tier follows its own load, and does not flap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.serve.config import AutoscalingConfig

from cluster.scaling import Pace, Reading, State, decide, needed
from cluster.serve_scaling import TierPolicy, autoscaling, read

NUM_SLOTS = 10
TICK_S = 0.5


@dataclass
class Tier:
    """A tier under a load: its replicas take ``start_s`` to start, its steps get longer with the batch."""

    role: str
    pace: Pace
    slowdown: float = 0.0  # of a step, per session beyond a replica's first
    wait: float = 0.0
    optimistic: float = 0.0
    start_s: float = 3.0
    state: State = field(default_factory=State)
    wanted: int = 1
    running: int = 1
    starting_s: list[float] = field(default_factory=list)  # when starting replicas will serve

    def tick(self, now_s: float, num_sessions: float) -> None:
        self.running += sum(ready_s <= now_s for ready_s in self.starting_s)
        self.starting_s = [ready_s for ready_s in self.starting_s if ready_s > now_s]
        batch = num_sessions / max(1, self.running)
        reading = Reading(
            self.wanted,
            self.running,
            num_sessions,
            NUM_SLOTS,
            step_ms=10.0 * (1.0 + self.slowdown * max(0.0, batch - 1.0)) if self.running else 0.0,
            wait=self.wait / max(1, self.running),
            optimistic=self.optimistic,
        )
        wanted, self.state = decide(self.role, reading, self.state, self.pace, now_s)
        missing = wanted - self.running - len(self.starting_s)
        self.starting_s += [now_s + self.start_s] * max(0, missing)
        self.starting_s = self.starting_s[: max(0, wanted - self.running)]
        self.running, self.wanted = min(self.running, wanted), wanted


def history(tier: Tier, load: Callable[[float], float], seconds: float) -> list[int]:
    """Wanted replicas at every tick of the load."""
    wanted = []
    for tick in range(int(seconds / TICK_S)):
        tier.tick(TICK_S * tick, load(TICK_S * tick))
        wanted.append(tier.wanted)
    return wanted


def changes(wanted: list[int]) -> list[tuple[int, int]]:
    return [(before, after) for before, after in pairwise(wanted) if before != after]


def step_load(low: float, high: float, begin_s: float, end_s: float) -> Callable[[float], float]:
    return lambda now_s: high if begin_s <= now_s < end_s else low


@pytest.mark.parametrize("role", ["target", "draft"])
def test_a_load_step_scales_up_at_once_and_down_after_the_cool_down(role):
    wanted = history(Tier(role, Pace(1, 4)), step_load(2, 20, 60, 180), 400)
    assert changes(wanted) == [(1, 3), (3, 1)]
    up, down = (wanted.index(3), len(wanted) - wanted[::-1].index(3))
    assert up * TICK_S == 60.0
    assert down * TICK_S == pytest.approx(180 + 60, abs=2 * TICK_S)


def test_a_load_that_swings_faster_than_the_cool_down_moves_the_number_once():
    swinging = history(Tier("target", Pace(1, 8)), lambda now_s: 4 if now_s % 40 < 20 else 30, 1200)
    assert changes(swinging) == [(1, 4)]


def test_a_slow_wave_is_followed_both_ways():
    wanted = history(Tier("target", Pace(1, 8)), lambda now_s: 4 if now_s % 600 < 300 else 30, 2400)
    assert changes(wanted) == ([(1, 4), (4, 1)] * 4)[:-1]


@given(
    loads=st.lists(st.floats(0, 60), min_size=2, max_size=60),
    low=st.integers(0, 2),
    more=st.integers(0, 5),
    slowdown=st.floats(0, 1),
    role=st.sampled_from(["draft", "target"]),
)
def test_under_any_load_the_number_keeps_its_bounds_and_rarely_falls(loads, low, more, slowdown, role):
    pace = Pace(low, max(1, low + more))
    wanted = history(
        Tier(role, pace, slowdown, wanted=max(1, low), running=max(1, low)),
        lambda now_s: loads[int(now_s / 5)],
        5 * len(loads),
    )
    assert all(pace.min_replicas <= number <= pace.max_replicas for number in wanted)
    falls = [tick for tick, (before, after) in enumerate(pairwise(wanted)) if after < before]
    assert all((later - sooner) * TICK_S >= pace.down_after_s for sooner, later in pairwise(falls))


def test_whoever_needs_a_slot_gets_one_within_the_bounds():
    for num_sessions in range(1, 60):
        for role in ("draft", "target"):
            number = needed(role, Reading(1, 1, num_sessions, NUM_SLOTS), 0.0, settled=True)
            assert number * NUM_SLOTS >= num_sessions
            assert (number - 1) * NUM_SLOTS * 0.8 < num_sessions


def test_slow_forward_passes_bring_more_targets_until_they_are_fast_again():
    tier = Tier("target", Pace(1, 8), slowdown=0.5)
    wanted = history(tier, step_load(1, 8, 20, 200), 200)
    assert tier.state.fastest_ms == 10.0
    assert changes(wanted) == [
        (1, 2)
    ]  # a batch of 8 takes 4.5 times as long as a lone session, one of 4 less than 3


def test_what_is_slow_with_few_sessions_brings_no_replicas():
    """The machine is busy otherwise, or prompts are long: another replica would not help."""
    slow = Reading(1, 1, 4.0, NUM_SLOTS, step_ms=1000.0, wait=0.9)
    assert needed("target", slow, 10.0, settled=True) == needed("draft", slow, 10.0, settled=True) == 1
    assert needed("target", replace(slow, num_replicas=2, num_running=2), 10.0, settled=True) == 1


def test_drafts_scale_with_waiting_blocks_and_targets_do_not():
    reading = Reading(1, 1, 6.0, NUM_SLOTS, step_ms=10.0, wait=0.7)  # more than WAIT
    assert needed("draft", reading, 10.0, settled=True) == 2
    assert needed("target", reading, 10.0, settled=True) == 1


def test_work_ahead_of_a_verdict_is_no_need_for_drafts():
    slow = Reading(1, 1, 6.0, NUM_SLOTS, step_ms=45.0)
    assert needed("draft", slow, 10.0, settled=True) == 2
    assert needed("draft", replace(slow, optimistic=0.5), 10.0, settled=True) == 1


def test_while_replicas_start_only_sessions_count():
    """Until they serve, measurements show the old overload and must not add ever more replicas."""
    tier = Tier("draft", Pace(1, 8), wait=0.8, start_s=30.0)
    wanted = history(tier, lambda _: 8.0, 25)
    assert max(wanted) == 2
    wanted = history(Tier("draft", Pace(1, 8), wait=0.8), lambda _: 8.0, 200)
    assert wanted[-1] == 2  # 0.8 over two replicas is 0.4


def test_idle_drafts_scale_to_zero_and_come_back_with_the_first_session():
    tier = Tier("draft", Pace(0, 4))
    wanted = history(tier, step_load(0, 3, 200, 300), 300)
    assert changes(wanted) == [(1, 0), (0, 1)]
    assert wanted.index(0) * TICK_S == 60.0


def test_a_replica_that_loads_for_longer_than_the_cool_down_is_not_given_up():
    wanted = history(Tier("draft", Pace(1, 8), wait=0.9, start_s=300.0), step_load(1, 8, 20, 1000), 1000)
    assert changes(wanted) == [(1, 2)]


@pytest.mark.parametrize("role", ["target", "draft"])
def test_a_replica_that_cannot_start_does_not_keep_the_others(role):
    pace, state, number, wanted = Pace(1, 4), State(), 1, []
    for tick in range(int(1000 / TICK_S)):
        num_sessions = 30.0 if tick * TICK_S < 20 else 2.0
        reading = Reading(
            number, min(number, 3), num_sessions, NUM_SLOTS, step_ms=10.0
        )  # the fourth fits nowhere
        number, state = decide(role, reading, state, pace, tick * TICK_S)
        wanted.append(number)
    assert changes(wanted) == [(4, 1)]
    assert wanted.index(1) * TICK_S == pytest.approx(pace.start_s + pace.down_after_s, abs=2 * TICK_S)


def test_bursts_farther_apart_than_the_cool_down_get_replicas_that_take_minutes_to_start():
    tier = Tier("target", Pace(1, 4), start_s=300.0)
    wanted = history(tier, lambda now_s: 30.0 if now_s % 100 < 30 else 2.0, 330)
    assert set(wanted) == {4}
    assert tier.running == 4


def test_relief_by_more_replicas_does_not_send_them_away():
    """With two drafts blocks wait half as long; back at one they would wait as long as before."""
    wanted = history(Tier("draft", Pace(1, 8), wait=0.9), step_load(1, 8, 20, 1000), 1000)
    assert changes(wanted) == [(1, 2)]


def test_tiers_scale_independently():
    draft, target = Tier("draft", Pace(0, 4), wait=0.9), Tier("target", Pace(1, 4))
    load = step_load(0, 6, 100, 400)
    assert max(history(draft, load, 400)) == 2
    assert max(history(target, load, 400)) == 1


# --------------------------------------------------------------------------- under Ray Serve


def context(**fields: object) -> SimpleNamespace:
    usual = {
        "target_num_replicas": 1,
        "running_replicas": ["a"],
        "policy_state": {},
        "current_time": 100.0,
        "total_num_requests": 0.0,
        "aggregated_metrics": {},
    }
    return SimpleNamespace(**{**usual, **fields})


def test_the_context_becomes_a_reading():
    seen = context(
        target_num_replicas=3,
        running_replicas=["a", "b"],
        total_num_requests=9.0,
        aggregated_metrics={
            "sessions": {"a": 3.0, "b": 5.0},
            "slots": {"a": 8.0, "b": 8.0},
            "step_ms": {"a": 10.0, "b": 20.0},
            "wait": {"a": 0.2, "b": 0.4},
            "optimistic": {"a": 0.5, "b": 0.1},
        },
    )
    assert read(seen, 4) == Reading(3, 2, 9.0, 8.0, 15.0, pytest.approx(0.3), pytest.approx(0.3))
    assert read(context(aggregated_metrics=None), 4) == Reading(1, 1, 0.0, 4)


def test_state_survives_between_calls_beside_serves_own():
    policy = TierPolicy("target", 10, min_replicas=1, max_replicas=4, down_after_s=5.0)
    number, state = policy(context(total_num_requests=20.0))
    assert number == 3
    seen = {"target_num_replicas": 3, "running_replicas": ["a", "b", "c"], "total_num_requests": 1.0}
    for now_s, wanted in ((101.0, 3), (105.0, 3), (106.0, 1)):
        state = {**state, "__decision_counter": 7}
        number, state = policy(context(**seen, policy_state=state, current_time=now_s))
        assert number == wanted


def test_serve_accepts_the_configuration_and_ships_the_policy_by_value():
    config = AutoscalingConfig(**autoscaling("draft", 8, 0, 3, down_after_s=30.0))
    assert (config.min_replicas, config.max_replicas, config.initial_replicas) == (0, 3, 1)
    shipped = config.policy.get_policy()(**config.policy.policy_kwargs)
    assert shipped(context(total_num_requests=20.0))[0] == 3
    assert shipped.pace == Pace(0, 3, down_after_s=30.0)
