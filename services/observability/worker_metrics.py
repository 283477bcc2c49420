"""Prometheus series of one worker replica, read from its host at each scrape."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from adasd.rounds import CacheUse, PrefixStats
from services.observability.buckets import BATCH_SIZES, STEP_TOKENS


class WorkerCounts(Protocol):
    """Counts of a worker, as in services.worker.host_stats.HostStats."""

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
    @property
    def step_tokens(self) -> tuple[tuple[float, int], ...]: ...
    @property
    def num_step_tokens(self) -> int: ...
    @property
    def prefix(self) -> PrefixStats: ...
    @property
    def cache(self) -> CacheUse: ...


class WorkerCollector(Collector):
    """Calls the functions at every collection. ``model_name`` is the name that clients use."""

    def __init__(
        self,
        role: str,
        model_name: str,
        stats: Callable[[], WorkerCounts],
        num_leases: Callable[[], int],
        num_streams: Callable[[], int] = lambda: 0,
    ) -> None:
        self._role, self._model_name, self._stats = role, model_name, stats
        self._num_leases, self._num_streams = num_leases, num_streams

    def collect(self) -> Iterator[Metric]:
        stats = self._stats()
        for name, about, value in (
            ("slots", "Sessions that the replica can hold.", stats.num_slots),
            ("sessions", "Open slots.", stats.num_sessions),
            ("leases", "Sessions that may use the replica.", self._num_leases()),
            ("streams", "Sessions that have a stream open.", self._num_streams()),
            ("pending_calls", "Calls in the engine.", stats.num_pending),
        ):
            yield GaugeMetricFamily(f"adasd_worker_{name}", about, value)
        for name, about, total in (
            ("calls", "Calls answered.", stats.num_calls),
            ("calls_failed", "Calls answered with an error.", stats.num_failed),
            ("tokens", "Tokens drafted or decided.", stats.num_tokens),
            ("preemptions", "Sessions that gave their pages to older ones.", stats.cache.num_preempted),
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
            yield from self._vllm_series(stats)

    def _vllm_series(self, stats: WorkerCounts) -> Iterator[Metric]:
        names, values = ["model_name", "engine"], [self._model_name, "0"]
        usage = GaugeMetricFamily(
            "vllm:kv_cache_usage_perc",
            "Share of the KV cache that open sessions use (1 is all).",
            labels=names,
        )
        usage.add_metric(values, stats.cache.num_used / max(1, stats.cache.num_blocks))
        yield usage
        cache = GaugeMetricFamily(
            "vllm:cache_config_info",
            "Always 1; the labels tell the KV cache's size: blocks are pages, or slots where they are contiguous.",
            labels=[*names, "block_size", "num_gpu_blocks"],
        )
        cache.add_metric([*values, str(stats.cache.block_len), str(stats.cache.num_blocks)], 1)
        yield cache
        for name, about, total in (
            ("queries", "Prompt tokens looked up in the prefix cache.", stats.prefix.num_queried),
            ("hits", "Prompt tokens found in the prefix cache.", stats.prefix.num_hits),
        ):
            counter = CounterMetricFamily(f"vllm:prefix_cache_{name}", about, labels=names)
            counter.add_metric(values, total)
            yield counter
        tokens = HistogramMetricFamily(
            "vllm:iteration_tokens_total", "Prompt and answer tokens of one forward pass.", labels=names
        )
        tokens.add_metric(values, _buckets(STEP_TOKENS, stats.step_tokens), stats.num_step_tokens)
        yield tokens


def _batch_sizes(steps_by_size: tuple[tuple[int, int], ...]) -> HistogramMetricFamily:
    """Exact, since every batch size is counted separately."""
    family = HistogramMetricFamily("adasd_worker_batch_size", "Calls in one forward pass.")
    total = sum(size * steps for size, steps in steps_by_size)
    family.add_metric([], _buckets(BATCH_SIZES, steps_by_size), total)
    return family


def _label(bound: float) -> str:
    return "+Inf" if bound == math.inf else f"{bound:.1f}"


def _buckets(bounds: Sequence[float], steps_by_size: Sequence[tuple[float, int]]) -> list[tuple[str, float]]:
    """Cumulative counts by upper bound; the last bound is infinity."""
    return [
        (_label(bound), float(sum(steps for size, steps in steps_by_size if size <= bound)))
        for bound in (*bounds, math.inf)
    ]
