"""Snapshots of a replica's metrics, and the Prometheus text of several.

Each series gets the labels ``replica`` and ``role`` of its source. So every counter has one writer and never
decreases, no matter which orchestrator is scraped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
"""The classic text format, which every scraper reads."""


@dataclass(frozen=True, slots=True)
class MetricSample:
    """One line of the text."""

    name: str
    labels: tuple[tuple[str, str], ...]
    value: float


@dataclass(frozen=True, slots=True)
class MetricFamily:
    """Samples of one metric, with its type and description."""

    name: str
    kind: str  # counter | gauge | histogram | summary
    about: str
    samples: tuple[MetricSample, ...]


@dataclass(frozen=True, slots=True)
class ReplicaSnapshot:
    """The metrics of one replica. ``number`` increases with each snapshot of the same replica."""

    replica: str
    role: str  # orchestrator | draft | target
    number: int
    families: tuple[MetricFamily, ...]


def take(collector: Collector, replica: str, role: str, number: int) -> ReplicaSnapshot:
    """A snapshot of the collector's series, without ``_created`` series, which some scrapers reject."""
    families = (
        MetricFamily(
            metric.name,
            metric.type,
            metric.documentation,
            tuple(
                MetricSample(sample.name, tuple(sample.labels.items()), sample.value)
                for sample in metric.samples
                if not sample.name.endswith("_created")
            ),
        )
        for metric in collector.collect()
    )
    return ReplicaSnapshot(replica, role, number, tuple(families))


def render(snapshots: Iterable[ReplicaSnapshot]) -> bytes:
    """The Prometheus text of all snapshots, with one header per metric."""
    return generate_latest(_Merged(snapshots))


class _Merged(Collector):
    def __init__(self, snapshots: Iterable[ReplicaSnapshot]) -> None:
        self._snapshots = tuple(snapshots)

    def collect(self) -> Iterator[Metric]:
        metrics: dict[str, Metric] = {}
        for snapshot in self._snapshots:
            origin = {"replica": snapshot.replica, "role": snapshot.role}
            for family in snapshot.families:
                metric = metrics.setdefault(family.name, Metric(family.name, family.about, family.kind))
                for sample in family.samples:
                    metric.add_sample(sample.name, {**dict(sample.labels), **origin}, sample.value)
        yield from metrics.values()
