"""How busy a replica is: the change of its counts since the last report."""

from __future__ import annotations

from services.worker.host_stats import HostStats


class LoadMeter:
    """Turns counts since the start into means and shares since the last report."""

    def __init__(self) -> None:
        self._last: HostStats | None = None
        self._step_ms = 0.0

    def since_last(self, stats: HostStats, num_leases: int) -> dict[str, float]:
        """Sessions and slots now, and the load since the last report.

        ``step_ms``: mean time of a forward pass, or the previous mean if there was no pass. ``wait``: share of the
        calls' time in this worker spent outside forward passes. ``optimistic``: share of the calls that drafted before
        a verdict. Shares are in [0, 1], and 0 without calls.
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
    """part / whole, in [0, 1]; 0 if the whole is 0."""
    return min(1.0, max(0.0, part / whole)) if whole > 0 else 0.0
