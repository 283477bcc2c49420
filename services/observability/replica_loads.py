"""The load of a deployment, read from the metrics snapshots of its replicas."""

from __future__ import annotations

from collections.abc import Iterable

from services.observability.snapshot import ReplicaSnapshot
from services.transport.generation_messages import Loads, ReplicaLoad

WORKERS = ("draft", "target")


def loads_of(snapshots: Iterable[ReplicaSnapshot]) -> Loads:
    """The load of each worker, and the requests of all orchestrators together."""
    replicas: list[ReplicaLoad] = []
    num_running = num_waiting = 0
    for snapshot in snapshots:
        values = _totals(snapshot)
        num_running += values.get("vllm:num_requests_running", 0)
        num_waiting += values.get("vllm:num_requests_waiting", 0)
        if snapshot.role in WORKERS:
            replicas.append(
                ReplicaLoad(
                    snapshot.role,
                    snapshot.replica,
                    num_slots=values.get("adasd_worker_slots", 0),
                    num_sessions=values.get("adasd_worker_sessions", 0),
                    num_pending=values.get("adasd_worker_pending_calls", 0),
                    num_tokens=values.get("adasd_worker_tokens_total", 0),
                )
            )
    return Loads(tuple(replicas), num_running, num_waiting)


def _totals(snapshot: ReplicaSnapshot) -> dict[str, int]:
    """Values by sample name, summed over labels."""
    totals: dict[str, int] = {}
    for family in snapshot.families:
        for sample in family.samples:
            if not sample.name.endswith("_bucket"):
                totals[sample.name] = totals.get(sample.name, 0) + round(sample.value)
    return totals
