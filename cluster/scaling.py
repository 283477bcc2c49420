"""How many replicas each tier should have: one pure policy for both tiers; the caller supplies the time in seconds.

A session holds one slot of each tier, so the number of sessions (including waiting ones) is a lower bound for both.
Utilisation says little: a single session keeps its replica busy. A replica has too many sessions when a forward pass
takes several times as long as with a small batch. For the draft, blocks that wait in its worker also count, because
verifiers then wait too. Lookahead does not count as load of the draft: it has the lowest priority and only fills
spare time.

Scaling up is immediate. Scaling down happens only after the load was low for a while, to the largest number needed
during that time, so a load that fluctuates faster does not change the number. A load is low if fewer replicas would
suffice even if it grew by SPARE; else a load at the border of two numbers would remove a replica again and again.
Replicas that start keep the number up for ``start_s``, since a large model takes minutes; one that cannot start does
not keep it up for ever.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

FULL = 0.8
"""Share of the slots that may be leased before another replica is added."""
SLOW = 3.0
"""How many times its fastest duration a forward pass may take."""
FEW = 4
"""At this many sessions per replica or fewer, load adds no replica: the cause of slowness is another."""
SPARE = 0.2
"""Growth of the load that the remaining replicas must bear for one to be removed."""
WAIT = 0.5
"""Share of a block's time in its draft worker that may be spent waiting."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Measurements of a tier; ``step_ms`` and shares are means over its replicas."""

    num_replicas: int  # the last decision; some may still be starting
    num_running: int  # of those, the ones that serve
    num_sessions: float  # holding a slot or waiting for one
    num_slots: float  # per replica
    step_ms: float = 0.0  # duration of a forward pass; 0 before the first
    wait: float = 0.0  # share of calls' time in the worker spent waiting, [0, 1]
    optimistic: float = 0.0  # share of calls that assumed acceptance, [0, 1]


@dataclass(frozen=True, slots=True)
class Pace:
    """Bounds and cool-downs of one tier; seconds."""

    min_replicas: int
    max_replicas: int
    settle_s: float = 5.0  # after new replicas serve; older measurements do not apply
    down_after_s: float = 60.0  # of lower load before replicas are removed
    start_s: float = 600.0  # after which replicas that do not serve yet no longer keep the number up


@dataclass(frozen=True, slots=True)
class State:
    """State of the policy between calls."""

    fastest_ms: float = 0.0  # shortest forward pass so far; 0 before the first
    settled_s: float = 0.0  # from then on, measurements describe the current replicas
    missing_since_s: float | None = None  # since then, fewer replicas serve than were decided
    low_since_s: float | None = None  # since then, fewer replicas would have sufficed
    most_since: int = 0  # the most replicas needed since then


def needed(role: str, reading: Reading, fastest_ms: float, settled: bool, growth: float = 0.0) -> int:
    """Replicas that the current load, grown by this share, needs, ignoring bounds."""
    if reading.num_sessions < 0.5:  # the lease of a probe, averaged over time, is not load
        return 0
    num_sessions = (1.0 + growth) * reading.num_sessions
    by_sessions = max(1, ceil(num_sessions / (FULL * reading.num_slots) - 1e-9))
    if not settled:
        return max(by_sessions, reading.num_replicas)  # starting replicas still count as needed
    if not reading.num_running or not fastest_ms:
        return by_sessions
    load = reading.step_ms / (SLOW * fastest_ms)
    if role == "draft":
        load = max(load * (1.0 - reading.optimistic), reading.wait / WAIT)
    by_load = ceil(
        (1.0 + growth) * reading.num_running * load
    )  # spreads the load of num_running over so many
    return max(by_sessions, min(by_load, ceil(reading.num_sessions / FEW)))


def decide(role: str, reading: Reading, state: State, pace: Pace, now_s: float) -> tuple[int, State]:
    """The number of replicas that the tier should have now, and the new state."""
    if reading.step_ms > 0.0:
        state = replace(state, fastest_ms=min(reading.step_ms, state.fastest_ms or reading.step_ms))
    if reading.num_running != reading.num_replicas:
        state = replace(state, settled_s=now_s + pace.settle_s)
    settled = now_s >= state.settled_s
    missing_since_s = now_s if state.missing_since_s is None else state.missing_since_s
    state = replace(
        state, missing_since_s=missing_since_s if reading.num_running < reading.num_replicas else None
    )
    given_up = state.missing_since_s is not None and now_s - state.missing_since_s >= pace.start_s
    wanted, enough = (
        min(max(needed(role, reading, state.fastest_ms, known, growth), pace.min_replicas), pace.max_replicas)
        for known, growth in ((settled, 0.0), (settled or given_up, SPARE))
    )
    if enough >= reading.num_replicas:
        return max(wanted, reading.num_replicas), replace(state, low_since_s=None, most_since=0)
    since_s = now_s if state.low_since_s is None else state.low_since_s
    state = replace(state, low_since_s=since_s, most_since=max(state.most_since, enough))
    if now_s - since_s < pace.down_after_s:
        return reading.num_replicas, state
    return state.most_since, replace(state, low_since_s=None, most_since=0)
