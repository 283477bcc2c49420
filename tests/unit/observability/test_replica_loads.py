"""The load of a deployment, from its replicas' reports."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from adasd.requests import Mode
from adasd.rounds import PrefixStats, SlotGranted
from services.observability.metrics import ServiceMetrics
from services.observability.replica_loads import loads_of
from services.observability.reporter import Reporter
from services.observability.service_events import RequestStarted
from services.observability.snapshot_store import SnapshotStoreDeployment
from services.observability.worker_metrics import WorkerCollector
from services.transport.generation_messages import Loads, ReplicaLoad
from services.worker.host_stats import HostStats


def worker(role, name, link):
    stats = HostStats(
        num_slots=8, num_sessions=3, num_pending=1, num_steps=5, num_calls=9, num_failed=0, num_tokens=99,
        busy_s=1.0, batch_sizes=((1, 5),), step_tokens=((1.0, 5),), num_step_tokens=5, prefix=PrefixStats(),
    )  # fmt: skip
    return Reporter(WorkerCollector(role, "m", lambda: stats, lambda: 3), name, role, link)


def orchestrator(name, link, num_running, num_waiting):
    registry = CollectorRegistry()
    metrics = ServiceMetrics(registry, "m", 512, 8)
    for number in range(num_running + num_waiting):
        metrics(RequestStarted(str(number), Mode.EXACT, 5, 0.0))
        if number < num_running:
            metrics(SlotGranted(str(number), "target", 0.0, 0.0))
    return Reporter(registry, name, "orchestrator", link)


async def test_workers_are_listed_and_the_requests_of_all_orchestrators_added_up():
    store = SnapshotStoreDeployment()
    for reporter in (
        worker("target", "t1", store),
        worker("draft", "d1", store),
        worker("draft", "d2", store),
        orchestrator("o2", store, 4, 1),
    ):
        await reporter.all_snapshots()
    loads = loads_of(await orchestrator("o1", store, 2, 3).all_snapshots())
    assert loads == Loads(
        tuple(
            ReplicaLoad(role, name, num_slots=8, num_sessions=3, num_pending=1, num_tokens=99)
            for role, name in (("draft", "d1"), ("draft", "d2"), ("target", "t1"))
        ),
        num_running=6,
        num_waiting=4,
    )


async def test_without_a_board_a_replica_speaks_for_itself():
    loads = loads_of(await orchestrator("o1", None, 2, 3).all_snapshots())
    assert (loads.replicas, loads.num_running, loads.num_waiting) == ((), 2, 3)
