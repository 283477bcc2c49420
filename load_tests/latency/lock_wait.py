"""What the interpreter lock takes from a worker's engine: the RPC side runs in the same process (ADR 0015).

    python -m load_tests.latency.lock_wait [--sessions 1 64 128] [--operations 400] [--switch-ms 5] [--json FILE]

A target worker is a process of its own with an engine that behaves as one on a GPU does: it launches operations, each
of which gives the lock up for a few microseconds, then waits for the device without it. After each of them the engine's
thread has to get it back. The sessions of this process ask a draft worker for a block and that target for its verdict,
over frames. A step's time is the sum of processor time, of the wait for a free core, and of the wait for the lock; the
system counts the first two for every thread, so the third is known even on a busy machine (Linux only). *share* is that
part of a step. *round* is what the RPC side's own wait for the lock shows in; ``--switch-ms`` is how long Python lets a
thread keep the lock that another one wants.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import multiprocessing
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import uvloop
from rich.table import Table

from adasd.rounds import CallFailed, DraftBlock, OpenCall, SamplingTransform, Verdict
from load_tests import record
from load_tests.latency.counting_engine import CountingEngine
from load_tests.latency.link_cost import WARM_UP_S, Count, ask_in_turn
from load_tests.latency.round_trip import worker
from services.transport.link import WorkerAddress
from services.transport.link_pool import LinkPool
from services.transport.rounds_client import RoundsLine

LAUNCHED = bytes(8 * 1024)
"""Hashed by one operation: about 4 microseconds without the lock."""
AWAITED = bytes(8 * 1024 * 1024)
"""Hashed as the wait for the device: about 4 milliseconds without the lock."""
STEPS_PER_REPORT = 16
THREAD_TIMES = Path("/proc/thread-self/schedstat")


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Sums over steps; seconds."""

    num_steps: int = 0
    num_calls: int = 0
    wall_s: float = 0.0
    processor_s: float = 0.0
    core_wait_s: float = 0.0  # ready to run, but every core was taken

    @property
    def lock_wait_s(self) -> float:
        """The rest: the engine's thread slept, and a step waits for nothing but the lock."""
        return max(0.0, self.wall_s - self.processor_s - self.core_wait_s)

    @property
    def lock_share(self) -> float:
        """Of the steps' time without the wait for a core, which is the machine's affair."""
        return self.lock_wait_s / max(1e-9, self.lock_wait_s + self.processor_s)

    def plus(self, other: StepTimes) -> StepTimes:
        return StepTimes(
            self.num_steps + other.num_steps,
            self.num_calls + other.num_calls,
            self.wall_s + other.wall_s,
            self.processor_s + other.processor_s,
            self.core_wait_s + other.core_wait_s,
        )


def thread_times() -> tuple[float, float, float]:
    """Now, and this thread's processor time and its wait for a core so far; seconds."""
    waited_ns = int(THREAD_TIMES.read_text(encoding="ascii").split()[1])
    return time.perf_counter(), time.thread_time(), 1e-9 * waited_ns


class LaunchingEngine(CountingEngine):
    """A CountingEngine whose step launches operations; tells ``report`` the times of its steps."""

    def __init__(self, num_slots: int, num_operations: int, switch_ms: float, report: Connection) -> None:
        super().__init__(num_slots=num_slots)
        sys.setswitchinterval(1e-3 * switch_ms)  # of its whole process
        self._num_operations, self._report, self._times = num_operations, report, StepTimes()

    def step(self) -> list[DraftBlock | Verdict | CallFailed]:
        num_calls, began = len(self._waiting), thread_times()
        for _ in range(self._num_operations):
            hashlib.sha256(LAUNCHED)
        hashlib.sha256(AWAITED)
        answers = super().step()
        wall_s, processor_s, waited_s = (
            after - before for after, before in zip(thread_times(), began, strict=True)
        )
        self._times = self._times.plus(StepTimes(1, num_calls, wall_s, processor_s, waited_s))
        if self._times.num_steps == STEPS_PER_REPORT:
            self._report.send(self._times)
            self._times = StepTimes()
        return answers


async def measure(at: Sequence[WorkerAddress], sessions: Sequence[str], seconds: float) -> float:
    """Ask for rounds this long; returns the median milliseconds of one."""
    pool, count = LinkPool(), Count()
    pairs = [tuple(RoundsLine(pool, one, session, timeout_s=60.0) for one in at) for session in sessions]
    asking: list[asyncio.Task[None]] = []
    try:
        for session, pair in zip(sessions, pairs, strict=True):
            for line in pair:
                await line.open(OpenCall(session, SamplingTransform(), max_len=64))
            asking.append(asyncio.create_task(ask_in_turn((pair[0], pair[1]), session, count)))
        done, _ = await asyncio.wait(asking, timeout=WARM_UP_S + seconds, return_when=asyncio.FIRST_COMPLETED)
        if done:
            raise RuntimeError("a session ended") from done.pop().exception()
        return median(count.times_ms)
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        await asyncio.gather(*(line.close() for pair in pairs for line in pair))
        await pool.close()


def run(num_sessions: int, num_operations: int, switch_ms: float, seconds: float) -> tuple[StepTimes, float]:
    """All steps of the target while so many sessions ask, and the median milliseconds of a round."""
    sessions = [f"s{number}" for number in range(num_sessions)]
    ours, theirs = multiprocessing.get_context("spawn").Pipe(duplex=False)
    engine = partial(LaunchingEngine, num_sessions, num_operations, switch_ms, theirs)
    with worker("draft", sessions) as draft_at, worker("target", sessions, engine) as target_at:
        round_ms = uvloop.run(measure((draft_at, target_at), sessions, seconds))
    total = StepTimes()
    while ours.poll():
        total = total.plus(ours.recv())
    return total, round_ms


def table(found: dict[int, tuple[StepTimes, float]]) -> Table:
    shown = Table(
        "sessions", "calls/step", "step ms", "processor", "core wait", "lock wait", "share", "round"
    )
    shown.title = "a target's step beside its RPC side, milliseconds"
    for sessions, (times, round_ms) in found.items():
        num = max(1, times.num_steps)
        parts = (times.wall_s, times.processor_s, times.core_wait_s, times.lock_wait_s)
        shown.add_row(
            str(sessions),
            f"{times.num_calls / num:.1f}",
            *(f"{1e3 * part / num:.2f}" for part in parts),
            f"{times.lock_share:.1%}",
            f"{round_ms:.1f}",
        )
    return shown


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m load_tests.latency.lock_wait", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 64, 128], help="[1 64 128]")
    parser.add_argument("--operations", type=int, default=400, help="launched per step [400]")
    parser.add_argument(
        "--switch-ms", type=float, default=5.0, help="Python's switch interval in the target [5]"
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="per figure [4]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(arguments)
    if min(options.sessions) < 1 or options.operations < 1 or min(options.seconds, options.switch_ms) <= 0:
        parser.error("--sessions and --operations must be at least 1, --seconds and --switch-ms above 0")
    if not THREAD_TIMES.exists():
        parser.error(f"this system has no {THREAD_TIMES}, which counts the time of a thread")
    header = record.circumstances("latency.lock_wait", arguments)
    print(record.headline(header))
    how = (options.operations, options.switch_ms, options.seconds)
    found = {sessions: run(sessions, *how) for sessions in options.sessions}
    record.console().print(table(found))
    if options.json:
        shown = [
            {"sessions": sessions, "round_ms": round_ms, **asdict(times)}
            for sessions, (times, round_ms) in found.items()
        ]
        record.write(options.json, header, {"steps": shown})
    return 0


if __name__ == "__main__":
    sys.exit(main())
