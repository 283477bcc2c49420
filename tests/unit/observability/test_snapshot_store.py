"""One scrape shows every living replica, and no counter ever decreases."""

from __future__ import annotations

import asyncio
from math import inf

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families

from adasd.rounds import CacheUse, PrefixStats
from adasd.testing.clock import FakeClock
from services.observability import reporter as reporting
from services.observability.reporter import Reporter
from services.observability.snapshot import CONTENT_TYPE, render, take
from services.observability.snapshot_store import SnapshotStore, SnapshotStoreDeployment
from services.observability.worker_metrics import WorkerCollector
from services.worker.host_stats import HostStats


class Replica:
    """A counter that is reported to a store."""

    def __init__(self, name, link, role="orchestrator"):
        registry = CollectorRegistry()
        self.counter = Counter("adasd_things", "Things.", ["kind"], registry=registry)
        self.reporter = Reporter(registry, name, role, link)


def read(text):
    """Value by (name, replica)."""
    return {
        (sample.name, sample.labels["replica"]): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


async def test_whichever_replica_is_scraped_nothing_goes_back():
    store = SnapshotStoreDeployment()
    first, second = Replica("a", store), Replica("b", store)
    seen = {}
    for number in range(40):
        (first if number % 3 else second).counter.labels("x").inc()
        values = read(await (first if number % 2 else second).reporter.scrape())
        assert all(values[key] >= before for key, before in seen.items()), (values, seen)
        seen |= values
    assert seen["adasd_things_total", "a"] + seen["adasd_things_total", "b"] >= 38


async def test_a_name_appears_once_however_many_replicas_report_it():
    store = SnapshotStoreDeployment()
    replicas = [Replica(name, store) for name in "abc"]
    for replica in replicas:
        replica.counter.labels("x").inc()
        text = await replica.reporter.scrape()
    assert text.count(b"# TYPE adasd_things_total counter") == 1
    assert text.count(b'adasd_things_total{kind="x",') == 3


def test_a_silent_replica_disappears_and_one_that_ends_at_once():
    clock = FakeClock()
    store = SnapshotStore(ttl_s=10, clock=clock)
    registry = CollectorRegistry()
    for name in ("a", "b", "c"):
        store.put(take(registry, name, "target", 1))
    clock.advance(8)
    store.put(take(registry, "b", "target", 2))
    store.remove("c")
    assert [s.replica for s in store.all()] == ["a", "b"]
    clock.advance(8)
    assert [s.replica for s in store.all()] == ["b"]


def test_a_snapshot_that_was_overtaken_is_dropped():
    store, registry = SnapshotStore(), CollectorRegistry()
    counter = Counter("adasd_things", "Things.", registry=registry)
    old = take(registry, "a", "target", 1)
    counter.inc()
    store.put(take(registry, "a", "target", 2))
    store.put(old)
    assert read(render(store.all())) == {("adasd_things_total", "a"): 1.0}


async def test_without_its_board_a_replica_shows_itself():
    class Gone:
        async def exchange(self, snapshot):
            raise ConnectionError("no store")

    replica = Replica("a", Gone())
    replica.counter.labels("x").inc(3)
    assert read(await replica.reporter.scrape()) == {("adasd_things_total", "a"): 3.0}


async def test_a_reporter_keeps_reporting_through_failures_until_it_is_stopped(monkeypatch):
    monkeypatch.setattr(reporting, "PERIOD_S", 0.005)
    store = SnapshotStoreDeployment()
    failures = 2

    class Flaky:
        async def put(self, snapshot):
            nonlocal failures
            if failures:
                failures -= 1
                raise ConnectionError("restarting")
            await store.put(snapshot)

        remove = store.remove

    replica = Replica("a", Flaky())
    replica.reporter.start()
    async with asyncio.timeout(20):
        while not store.store.all():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    await replica.reporter.stop()
    await replica.reporter.stop()
    assert store.store.all() == ()


def test_a_workers_figures_are_its_hosts():
    stats = HostStats(
        8,
        3,
        2,
        10,
        21,
        1,
        40,
        0.5,
        ((1, 4), (3, 5), (2000, 1)),
        step_tokens=((1, 4), (64, 5), (inf, 1)),
        num_step_tokens=20300,
        prefix=PrefixStats(120, 64),
        cache=CacheUse(num_blocks=400, block_len=256, num_used=100, num_preempted=7),
    )
    collector = WorkerCollector("target", "pair", lambda: stats, lambda: 4)
    text = render([take(collector, "t1", "target", 1)])
    assert 'block_size="256"' in text.decode()  # vllm:cache_config_info
    assert 'num_gpu_blocks="400"' in text.decode()
    values = {
        (s.name, s.labels.get("le")): s.value
        for f in text_string_to_metric_families(text.decode())
        for s in f.samples
    }
    assert values["vllm:kv_cache_usage_perc", None] == 1 / 4
    assert values["adasd_worker_preemptions_total", None] == 7
    assert values["adasd_worker_slots", None] == 8
    assert values["adasd_worker_leases", None] == 4
    assert values["adasd_worker_tokens_total", None] == 40
    assert values["adasd_worker_calls_failed_total", None] == 1
    assert (
        values["adasd_worker_step_seconds_sum", None],
        values["adasd_worker_step_seconds_count", None],
    ) == (
        0.5,
        10,
    )
    assert values["adasd_worker_batch_size_bucket", "2.0"] == 4
    assert values["adasd_worker_batch_size_bucket", "4.0"] == 9
    assert values["vllm:prefix_cache_queries_total", None] == 120
    assert values["vllm:prefix_cache_hits_total", None] == 64
    tokens = {le: values["vllm:iteration_tokens_total_bucket", le] for le in ("1.0", "32.0", "64.0", "+Inf")}
    assert tokens == {"1.0": 4, "32.0": 4, "64.0": 9, "+Inf": 10}
    assert values["vllm:iteration_tokens_total_sum", None] == 20300
    assert values["adasd_worker_batch_size_bucket", "+Inf"] == 10
    assert values["adasd_worker_batch_size_sum", None] == 4 + 15 + 2000


def test_a_drafts_figures_are_not_the_services():
    stats = HostStats(8, 3, 2, 10, 21, 1, 40, 0.5, ())
    text = render([take(WorkerCollector("draft", "pair", lambda: stats, lambda: 4), "d1", "draft", 1)])
    assert b"vllm:" not in text


def test_the_content_type_is_the_classic_one():
    assert CONTENT_TYPE.startswith("text/plain; version=0.0.4")
