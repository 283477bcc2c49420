"""Open files and tasks of a replica, which must not accumulate."""

from __future__ import annotations

import asyncio
import threading

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


def test_memory_and_threads_follow_what_is_taken():
    """Threads and memory of earlier tests may be given back meanwhile, hence the margins."""
    before, stop = figures(), threading.Event()
    threads = [threading.Thread(target=stop.wait) for _ in range(20)]
    for thread in threads:
        thread.start()
    taken = b"x" * 200_000_000
    after = figures()
    stop.set()
    for thread in threads:
        thread.join()
    assert 10 <= after["adasd_process_threads"] - before["adasd_process_threads"] <= 20
    grown = after["adasd_process_resident_bytes"] - before["adasd_process_resident_bytes"]
    assert 0.5 * len(taken) <= grown <= 1.5 * len(taken)


def test_outside_of_a_loop_there_are_no_tasks_to_count():
    assert "adasd_process_tasks" not in figures()
