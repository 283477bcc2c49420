"""What a replica's process holds of the things that leak: open files (sockets too) and tasks of its event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

OWN_FILES = "/proc/self/fd"


class ProcessCollector(Collector):
    """Collected on the replica's event loop; elsewhere there are no tasks to count, and off Linux no files."""

    def collect(self) -> Iterator[Metric]:
        try:
            open_files = len(os.listdir(OWN_FILES)) - 1  # the listing's own
        except OSError:
            pass
        else:
            yield GaugeMetricFamily(
                "adasd_process_open_files", "Open files and sockets of the replica's process.", open_files
            )
        try:
            num_tasks = len(asyncio.all_tasks())
        except RuntimeError:
            return
        yield GaugeMetricFamily("adasd_process_tasks", "Unfinished tasks of the replica's loop.", num_tasks)
