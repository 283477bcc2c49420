"""The figures of one worker replica as Prometheus series, read from its host whenever somebody looks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from services.observability.buckets import BATCH_SIZES


class Figures(Protocol):
    """What a worker counts (services.worker.host.HostStats)."""

    @property
    def num_slots(self) -> int: ...
    @property
    def num_sessions(self) -> int: ...
    @property
    def num_pending(self) -> int: ...
    @property
    def num_steps(self) -> int: ...
    @property
    def num_calls(self) -> int: ...
    @property
    def num_failed(self) -> int: ...
    @property
    def num_tokens(self) -> int: ...
    @property
    def busy_s(self) -> float: ...
    @property
    def batch_sizes(self) -> tuple[tuple[int, int], ...]: ...


class WorkerCollector(Collector):
    """``stats`` and ``num_leases`` are asked at every collection. ``model_name``: as clients name the model."""

    def __init__(
        self, role: str, model_name: str, stats: Callable[[], Figures], num_leases: Callable[[], int]
    ) -> None:
        self._role, self._model_name, self._stats, self._num_leases = role, model_name, stats, num_leases

    def collect(self) -> Iterator[Metric]:
        stats = self._stats()
        for name, about, value in (
            ("slots", "Sessions that the replica can hold.", stats.num_slots),
            ("sessions", "Open slots.", stats.num_sessions),
            ("leases", "Sessions that may use the replica.", self._num_leases()),
            ("pending_calls", "Calls in the engine.", stats.num_pending),
        ):
            yield GaugeMetricFamily(f"adasd_worker_{name}", about, value)
        for name, about, total in (
            ("calls", "Calls answered.", stats.num_calls),
            ("calls_failed", "Calls answered with an error.", stats.num_failed),
            ("tokens", "Tokens drafted or decided.", stats.num_tokens),
        ):
            yield CounterMetricFamily(f"adasd_worker_{name}", about, total)
        yield SummaryMetricFamily(
            "adasd_worker_step_seconds",
            "Forward passes and the time in them.",
            count_value=stats.num_steps,
            sum_value=stats.busy_s,
        )
        yield _batch_sizes(stats.batch_sizes)
        if self._role == "target":
            usage = GaugeMetricFamily(
                "vllm:kv_cache_usage_perc",
                "Share of the KV cache in use, by slots (1 is all).",
                labels=["model_name", "engine"],
            )
            usage.add_metric([self._model_name, "0"], stats.num_sessions / max(1, stats.num_slots))
            yield usage


def _batch_sizes(steps_by_size: tuple[tuple[int, int], ...]) -> HistogramMetricFamily:
    """An exact histogram, since every size has its own count."""
    buckets = [
        (f"{bound:.1f}", float(sum(steps for size, steps in steps_by_size if size <= bound)))
        for bound in BATCH_SIZES
    ]
    total = float(sum(steps for _, steps in steps_by_size))
    family = HistogramMetricFamily("adasd_worker_batch_size", "Calls in one forward pass.")
    family.add_metric([], [*buckets, ("+Inf", total)], sum(size * steps for size, steps in steps_by_size))
    return family
