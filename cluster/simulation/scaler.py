"""Production's scaling decision for one simulated tier, on readings averaged as Serve averages them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, fields

from cluster.scaling import Pace, Reading, State, decide

LOOK_BACK_S = 2.0
"""As ``look_back_period_s`` in cluster.serve_scaling."""


@dataclass(frozen=True, slots=True)
class Load:
    """A tier's load at one moment; ``step_ms`` and the shares are means over its replicas (cluster.scaling.Reading)."""

    num_sessions: float
    step_ms: float = 0.0
    wait: float = 0.0
    optimistic: float = 0.0


@dataclass(slots=True)
class Scaler:
    """How many replicas the tier should have; ``wanted`` is the last decision."""

    role: str
    pace: Pace
    num_slots: int
    wanted: int
    state: State = field(default_factory=State)
    _seen: deque[tuple[float, Load]] = field(default_factory=deque)

    def decide(self, now_s: float, num_running: int, load: Load) -> int:
        """Take one reading and decide (cluster.scaling.decide)."""
        self._seen.append((now_s, load))
        while self._seen[0][0] <= now_s - LOOK_BACK_S:
            self._seen.popleft()
        mean = {
            one.name: sum(getattr(each, one.name) for _, each in self._seen) / len(self._seen)
            for one in fields(Load)
        }
        reading = Reading(self.wanted, num_running, num_slots=self.num_slots, **mean)
        self.wanted, self.state = decide(self.role, reading, self.state, self.pace, now_s)
        return self.wanted
