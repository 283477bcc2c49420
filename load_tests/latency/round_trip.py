"""Time of a whole round without compute: a draft hop, then a verify hop, over real gRPC on loopback.

    python -m load_tests.latency.round_trip [--rounds 2000] [--json FILE]

Draft and target are separate processes, each with its event loop, leases, engine thread and a CountingEngine; the
client is this process. Event loops are uvloop's, as in Ray Serve. The result is the overhead of speculation over a
network, without any model; the goal is a median of at most 1.2 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import uvloop

from adasd.ports import Engine
from adasd.rounds import DraftCall, OpenCall, SamplingTransform, StopRule, VerifyCall
from load_tests import record
from load_tests.latency.counting_engine import CountingEngine
from services.transport.link import WorkerAddress
from services.transport.link_pool import LinkPool
from services.transport.rounds_client import RoundsLine
from services.transport.server import start_server, worker_handler
from services.worker.host import EngineHost
from services.worker.leases import LeaseTable
from services.worker.service import WorkerService

GOAL_MS = 1.2
BLOCK_LEN = 8
INCARNATION = "benchmark"


@dataclass(frozen=True)
class RoundTripTimes:
    """Wall times in milliseconds."""

    median: float
    mean: float
    p90: float
    p99: float

    @classmethod
    def of(cls, times_ms: Sequence[float]) -> RoundTripTimes:
        """Quantiles of single measurements."""
        cuts = statistics.quantiles(times_ms, n=100)
        return cls(statistics.median(times_ms), statistics.fmean(times_ms), cuts[89], cuts[98])


def worker_process(
    role: str, sessions: Sequence[str], port: Connection, make_engine: Callable[[], Engine]
) -> None:
    """One replica without Ray: sends its address through ``port``, runs until it receives something."""
    uvloop.run(_serve(role, sessions, port, make_engine))


async def _serve(
    role: str, sessions: Sequence[str], port: Connection, make_engine: Callable[[], Engine]
) -> None:
    host = EngineHost(make_engine, role)
    facts = await host.start()
    leases = LeaseTable(facts.num_slots, idle_ttl_s=600.0, clock=time.monotonic)
    for session in sessions:
        leases.grant(session)
    service = WorkerService(host, leases, INCARNATION)
    server = await start_server([worker_handler(service, role)], "127.0.0.1")
    port.send(server.address)
    await asyncio.to_thread(port.poll, None)
    await service.stop()
    await server.stop()
    await host.stop()


@contextmanager
def worker(
    role: str, sessions: Sequence[str], make_engine: Callable[[], Engine] | None = None
) -> Iterator[WorkerAddress]:
    """A replica in its own process while the context lasts; its engine counts by default.

    ``make_engine`` is pickled.
    """
    make_engine = make_engine or partial(CountingEngine, num_slots=len(sessions))
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=worker_process, args=(role, sessions, theirs, make_engine), daemon=True)
    process.start()
    try:
        if not ours.poll(60):
            raise TimeoutError(f"the {role} worker did not start in 60 s")
        yield WorkerAddress(role, ours.recv(), INCARNATION)
    finally:
        ours.send("stop")
        process.join(10)
        if process.is_alive():
            process.kill()


async def measure(
    draft_at: WorkerAddress, target_at: WorkerAddress, session: str, num_rounds: int
) -> list[float]:
    """Milliseconds of ``num_rounds`` rounds of one session, one after the other, on fresh streams."""
    pool = LinkPool()
    draft, target = (RoundsLine(pool, at, session, timeout_s=10.0) for at in (draft_at, target_at))
    try:
        for line in (draft, target):
            await line.open(OpenCall(session, SamplingTransform(), max_len=64))
        times_ms = []
        for epoch in range(num_rounds):
            began_s = time.perf_counter()
            drafted = await draft.draft(DraftCall(session, 2 * epoch, 0, (epoch,), StopRule(BLOCK_LEN)))
            verdict = await target.verify(VerifyCall(session, 2 * epoch + 1, 0, (epoch,), drafted.tokens))
            times_ms.append(1e3 * (time.perf_counter() - began_s))
            assert verdict.num_accepted == BLOCK_LEN
        return times_ms
    finally:
        await asyncio.gather(draft.close(), target.close())
        await pool.close()


def run(num_rounds: int, num_warm_up: int) -> RoundTripTimes:
    """Start both workers, warm up, measure."""
    with worker("draft", ["s"]) as draft_at, worker("target", ["s"]) as target_at:
        times_ms = uvloop.run(measure(draft_at, target_at, "s", num_warm_up + num_rounds))
    return RoundTripTimes.of(times_ms[num_warm_up:])


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; the exit status is 1 if the goal is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m load_tests.latency.round_trip", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=2000, help="rounds measured (default 2000)")
    parser.add_argument("--warm-up", type=int, default=300, help="rounds before, not counted (default 300)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(arguments)
    if options.rounds < 2 or options.warm_up < 0:
        parser.error("--rounds must be at least 2 and --warm-up at least 0")
    header = record.circumstances("latency.round_trip", arguments)
    print(record.headline(header))
    figures = run(options.rounds, options.warm_up)
    print(
        f"\none round, draft hop + verify hop, block of {BLOCK_LEN}, no compute, {options.rounds} rounds (ms)"
    )
    print("".join(f"{name:>9}" for name in asdict(figures)))
    print("".join(f"{value:9.3f}" for value in asdict(figures).values()))
    reached = figures.median <= GOAL_MS
    print(f"goal: median at most {GOAL_MS} ms: {'reached' if reached else 'missed'}")
    if options.json:
        found = {
            "rounds": options.rounds,
            "block_len": BLOCK_LEN,
            "goal_ms": GOAL_MS,
            "ms": asdict(figures),
        }
        record.write(options.json, header, found)
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
