"""How loaded a replica is: what changed in its host's counts since the last report."""

from __future__ import annotations

from services.worker.host import HostStats


class LoadMeter:
    """Turns counts since the start into means and shares since the last report."""

    def __init__(self) -> None:
        self._last: HostStats | None = None
        self._step_ms = 0.0

    def since_last(self, stats: HostStats, num_leases: int) -> dict[str, float]:
        """Gauges ``sessions`` and ``slots``, and what the time since the last call was like.

        ``step_ms``: mean of a forward pass; where none ran, the last one known. Shares in [0, 1], 0 where nothing
        ran: ``wait``, of the time that rounds' calls spent here, outside of forward passes; ``optimistic``, of the
        calls, those that assumed an acceptance.
        """
        last = self._last
        num_steps = stats.num_steps - (last.num_steps if last else 0)
        if num_steps:
            self._step_ms = 1e3 * (stats.busy_s - (last.busy_s if last else 0.0)) / num_steps
        waited_s = stats.waited_s - (last.waited_s if last else 0.0)
        computed_s = stats.computed_s - (last.computed_s if last else 0.0)
        num_optimistic = stats.num_optimistic - (last.num_optimistic if last else 0)
        num_calls = stats.num_calls - (last.num_calls if last else 0)
        self._last = stats
        return {
            "sessions": float(num_leases),
            "slots": float(stats.num_slots),
            "step_ms": self._step_ms,
            "wait": share(waited_s, waited_s + computed_s),
            "optimistic": share(num_optimistic, num_calls),
        }


def share(part: float, whole: float) -> float:
    """In [0, 1]; 0 of nothing."""
    return min(1.0, max(0.0, part / whole)) if whole > 0 else 0.0
