"""The scaling policy as a Ray Serve policy function: converts Serve's metrics to a reading, and the decision back.

Serve ships this module to its controller by value, but what it imports by name; so dataclasses stay in
cluster.scaling.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any, Protocol

from cluster.scaling import Pace, Reading, State, decide

KEPT = "adasd"
"""Key of the state between calls."""


class Context(Protocol):
    """The fields of Serve's AutoscalingContext that are used here."""

    target_num_replicas: int
    running_replicas: Any
    policy_state: dict[str, Any]
    current_time: float | None

    @property
    def total_num_requests(self) -> float: ...
    @property
    def aggregated_metrics(self) -> dict[str, dict[Any, float]] | None: ...


class TierPolicy:
    """Serve's ``policy_function`` of one tier; bounds and cool-downs are its keyword arguments."""

    def __init__(self, role: str, num_slots: int, **pace: Any) -> None:
        self.role, self.num_slots, self.pace = role, num_slots, Pace(**pace)

    def __call__(self, context: Context) -> tuple[int, dict[str, Any]]:
        """Replicas wanted, and the state for the next call."""
        state = State(**context.policy_state.get(KEPT, {}))  # Serve keeps its own entries next to it
        reading = read(context, self.num_slots)
        wanted, state = decide(self.role, reading, state, self.pace, context.current_time or time.time())
        return wanted, {KEPT: asdict(state)}


def read(context: Context, num_slots: int) -> Reading:
    """The tier's metrics from Serve; ``num_slots`` is used until a replica has reported its own number."""
    reported = context.aggregated_metrics or {}

    def mean(name: str, default: float = 0.0) -> float:
        values = list(reported.get(name, {}).values())
        return sum(values) / len(values) if values else default

    held = sum(reported.get("sessions", {}).values())
    return Reading(
        num_replicas=context.target_num_replicas,
        num_running=len(context.running_replicas),
        num_sessions=max(held, context.total_num_requests),  # the latter includes waiting ones
        num_slots=mean("slots", num_slots),
        step_ms=mean("step_ms"),
        wait=mean("wait"),
        optimistic=mean("optimistic"),
    )


def autoscaling(
    role: str, num_slots: int, min_replicas: int, max_replicas: int, **pace: float
) -> dict[str, Any]:
    """Serve's ``autoscaling_config`` for a tier; Serve's own delays are off, as the policy has cool-downs."""
    return {
        "min_replicas": min_replicas,
        "max_replicas": max_replicas,
        "initial_replicas": max(1, min_replicas),
        "metrics_interval_s": 0.5,
        "look_back_period_s": 2.0,
        "upscale_delay_s": 0.0,
        "downscale_delay_s": 0.0,
        "policy": {
            "policy_function": "cluster.serve_scaling:TierPolicy",
            "policy_kwargs": {
                "role": role,
                "num_slots": num_slots,
                "min_replicas": min_replicas,
                "max_replicas": max_replicas,
                **pace,
            },
        },
    }
