"""Open files and tasks of a replica, which must not accumulate."""

from __future__ import annotations

import asyncio
import subprocess
import sys

from services.observability.process import ProcessCollector


def figures() -> dict[str, float]:
    return {metric.name: metric.samples[0].value for metric in ProcessCollector().collect()}


def test_one_more_file_counts_as_one(tmp_path):
    before = figures()["adasd_process_open_files"]
    with (tmp_path / "file").open("w"):
        assert figures()["adasd_process_open_files"] == before + 1
    assert figures()["adasd_process_open_files"] == before


async def test_tasks_are_those_that_have_not_ended():
    before = figures()["adasd_process_tasks"]
    waiting = asyncio.create_task(asyncio.Event().wait())
    assert figures()["adasd_process_tasks"] == before + 1
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert figures()["adasd_process_tasks"] == before


IN_A_FRESH_PROCESS = """
import threading
from services.observability.process import ProcessCollector

def figures():
    return {metric.name: metric.samples[0].value for metric in ProcessCollector().collect()}

before, stop = figures(), threading.Event()
threads = [threading.Thread(target=stop.wait) for _ in range(20)]
for thread in threads:
    thread.start()
taken = b"x" * 200_000_000
after = figures()
stop.set()
assert after["adasd_process_threads"] - before["adasd_process_threads"] == 20
grown = after["adasd_process_resident_bytes"] - before["adasd_process_resident_bytes"]
assert 0.9 * len(taken) <= grown <= 1.1 * len(taken), grown
"""


def test_memory_and_threads_follow_what_is_taken():
    """In a process of its own: in this one, earlier tests may give memory and threads back meanwhile."""
    subprocess.run([sys.executable, "-c", IN_A_FRESH_PROCESS], check=True)


def test_outside_of_a_loop_there_are_no_tasks_to_count():
    assert "adasd_process_tasks" not in figures()
