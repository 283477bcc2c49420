"""The series of one replica at one moment, and many of them as one Prometheus text.

Each series gets the labels ``replica`` and ``role`` of whoever counted it, so that every counter has one
writer and stays monotonic, whichever orchestrator is scraped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
"""The classic text, which every reader understands."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of the text."""

    name: str
    labels: tuple[tuple[str, str], ...]
    value: float


@dataclass(frozen=True, slots=True)
class Family:
    """Samples under one name, with what they are."""

    name: str
    kind: str  # counter | gauge | histogram | summary
    about: str
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one replica has counted. ``number`` grows with each snapshot of the same replica."""

    replica: str
    role: str  # orchestrator | draft | target
    number: int
    families: tuple[Family, ...]


def take(collector: Collector, replica: str, role: str, number: int) -> Snapshot:
    """The collector's series now; ``_created`` ones are left out, as many readers stumble over them."""
    families = (
        Family(
            metric.name,
            metric.type,
            metric.documentation,
            tuple(
                Sample(sample.name, tuple(sample.labels.items()), sample.value)
                for sample in metric.samples
                if not sample.name.endswith("_created")
            ),
        )
        for metric in collector.collect()
    )
    return Snapshot(replica, role, number, tuple(families))


def render(snapshots: Iterable[Snapshot]) -> bytes:
    """All of them as text, each name once."""
    return generate_latest(_Merged(snapshots))


class _Merged(Collector):
    def __init__(self, snapshots: Iterable[Snapshot]) -> None:
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
