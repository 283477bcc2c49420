"""How many replicas each tier should have: one policy for both, pure, in seconds of whatever clock it is told.

A session holds one slot of each tier, so sessions (waiting ones included) bound both from below. Time in forward
passes says little: a single session keeps its replicas busy. What says that a replica is too full for its sessions is
a forward pass that takes several times as long as with a small batch. For the draft another sign counts: blocks
that wait in its worker, because then verifiers wait. Work ahead of a verdict is left out of the draft's load, as it
yields and stops first: it fills spare time and is no need.

More replicas come at once, fewer only after the load was low for a while, and then as many as the most that were
needed meanwhile. So a load that swings faster than that never makes the number swing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

FULL = 0.8
"""Share of the slots that may be leased before one more replica is wanted."""
SLOW = 3.0
"""How many times as long as at its fastest a forward pass may take."""
FEW = 4
"""Sessions of one replica that never make it too full: what is slow with so few is slow for another reason."""
WAIT = 0.5
"""Share of a block's time in its draft worker that may be waiting."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at a tier; ``step_ms`` and shares are means over its replicas."""

    num_replicas: int  # wanted last time; some may still be starting
    num_running: int  # of them, those that serve
    num_sessions: float  # holding a slot or waiting for one
    num_slots: float  # of one replica
    step_ms: float = 0.0  # of a forward pass; 0 before the first
    wait: float = 0.0  # of the time that rounds' calls spent in the worker, waiting; [0, 1]
    optimistic: float = 0.0  # of the calls, those that assumed an acceptance; [0, 1]


@dataclass(frozen=True, slots=True)
class Pace:
    """Bounds and cool-downs of one tier; seconds."""

    min_replicas: int
    max_replicas: int
    settle_s: float = 5.0  # after new replicas serve: what was measured before them is old
    down_after_s: float = 60.0  # of less load, before replicas go


@dataclass(frozen=True, slots=True)
class State:
    """What the policy remembers between looks."""

    fastest_ms: float = 0.0  # least time of a forward pass so far; 0 before the first
    settled_s: float = 0.0  # from then on what is measured speaks of the replicas that run
    low_since_s: float | None = None  # fewer replicas would have done since
    most_since: int = 0  # the most that were needed since


def needed(role: str, reading: Reading, fastest_ms: float, settled: bool) -> int:
    """Replicas that the load of this moment asks for, bounds aside."""
    if reading.num_sessions < 0.5:  # a probe's lease, averaged over a while, is no load
        return 0
    by_sessions = max(1, ceil(reading.num_sessions / (FULL * reading.num_slots) - 1e-9))
    if not settled:
        return max(
            by_sessions, reading.num_replicas
        )  # those on their way were needed when they were asked for
    if not reading.num_running or not fastest_ms:
        return by_sessions
    load = reading.step_ms / (SLOW * fastest_ms)
    if role == "draft":
        load = max(load * (1.0 - reading.optimistic), reading.wait / WAIT)
    by_load = ceil(reading.num_running * load)  # what is shared by n now would be shared by so many
    return max(by_sessions, min(by_load, ceil(reading.num_sessions / FEW)))


def decide(role: str, reading: Reading, state: State, pace: Pace, now_s: float) -> tuple[int, State]:
    """The number of replicas that the tier should have from now on."""
    if reading.step_ms > 0.0:
        state = replace(state, fastest_ms=min(reading.step_ms, state.fastest_ms or reading.step_ms))
    if reading.num_running != reading.num_replicas:
        state = replace(state, settled_s=now_s + pace.settle_s)
    wanted = needed(role, reading, state.fastest_ms, settled=now_s >= state.settled_s)
    wanted = min(max(wanted, pace.min_replicas), pace.max_replicas)
    if wanted >= reading.num_replicas:
        return wanted, replace(state, low_since_s=None, most_since=0)
    since_s = now_s if state.low_since_s is None else state.low_since_s
    state = replace(state, low_since_s=since_s, most_since=max(state.most_since, wanted))
    if now_s - since_s < pace.down_after_s:
        return reading.num_replicas, state
    return state.most_since, replace(state, low_since_s=None, most_since=0)
