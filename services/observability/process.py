"""Metrics of resources that a replica's process could leak: memory, open files, sockets, threads, asyncio tasks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

OWN_FILES, OWN_THREADS, OWN_MEMORY = "/proc/self/fd", "/proc/self/task", "/proc/self/statm"


class ProcessCollector(Collector):
    """Tasks are counted only on the replica's event loop, the rest only on Linux."""

    def collect(self) -> Iterator[Metric]:
        try:
            open_files = len(os.listdir(OWN_FILES)) - 1  # minus the one that lists them
            num_threads = len(os.listdir(OWN_THREADS))
            pages = int(Path(OWN_MEMORY).read_text().split()[1])
        except OSError:
            pass
        else:
            yield GaugeMetricFamily(
                "adasd_process_open_files", "Open files and sockets of the replica's process.", open_files
            )
            yield GaugeMetricFamily("adasd_process_threads", "Threads of the replica's process.", num_threads)
            resident = pages * os.sysconf("SC_PAGE_SIZE")
            yield GaugeMetricFamily(
                "adasd_process_resident_bytes", "Memory of the replica's process.", resident
            )
        try:
            num_tasks = len(asyncio.all_tasks())
        except RuntimeError:
            return
        yield GaugeMetricFamily("adasd_process_tasks", "Unfinished tasks of the replica's loop.", num_tasks)
