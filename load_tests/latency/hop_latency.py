"""One verify hop by how long the target computes: what a message costs once everybody has fallen asleep.

    python -m load_tests.latency.hop_latency [--compute 0 1 5 20] [--hops 200] [--json FILE]

One session asks one target in a process of its own, whose engine only takes its time
(load_tests.latency.timed_engine), over real gRPC on loopback. *transport* is what the caller waits beyond the time in
the worker, *worker* what the worker adds to the compute. Medians. Tells where ``pipelining`` loses its time; there is
no goal.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median

import uvloop
from rich.table import Table

from adasd.rounds import OpenCall, SamplingTransform, VerifyCall
from load_tests import record
from load_tests.latency.round_trip import worker
from load_tests.latency.timed_engine import Costs, TimedEngine
from services.transport.link import WorkerAddress
from services.transport.link_pool import LinkPool
from services.transport.rounds_client import RoundsLine

WARM_UP = 20
BLOCK = (1, 2, 3, 4)


@dataclass(frozen=True)
class Hop:
    """Medians in milliseconds."""

    compute_ms: float
    transport_ms: float
    worker_ms: float


async def measure(target_at: WorkerAddress, session: str, compute_ms: float, num_hops: int) -> Hop:
    """``num_hops`` verdicts, one after the other, on a fresh stream."""
    pool = LinkPool()
    line = RoundsLine(pool, target_at, session, timeout_s=10.0)
    transport_ms, worker_ms = [], []
    try:
        await line.open(OpenCall(session, SamplingTransform(), max_len=64))
        for epoch in range(WARM_UP + num_hops):
            began_s = time.perf_counter()
            verdict = await line.verify(VerifyCall(session, epoch, 0, (epoch,), BLOCK))
            took_ms = 1e3 * (time.perf_counter() - began_s)
            transport_ms.append(took_ms - verdict.compute_ms - verdict.queue_ms)
            worker_ms.append(verdict.queue_ms)
    finally:
        await line.close()
        await pool.close()
    return Hop(compute_ms, median(transport_ms[WARM_UP:]), median(worker_ms[WARM_UP:]))


def run(computes_ms: Sequence[float], num_hops: int) -> list[Hop]:
    """All compute times on one worker."""
    costs = {f"{compute_ms:g}": Costs(1.0, compute_ms, 1.0) for compute_ms in computes_ms}
    with worker("target", list(costs), partial(TimedEngine, costs)) as target_at:
        return [
            uvloop.run(measure(target_at, session, each.verify_ms, num_hops))
            for session, each in costs.items()
        ]


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m load_tests.latency.hop_latency", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--compute", type=float, nargs="+", default=[0, 1, 5, 20], help="ms [0 1 5 20]")
    parser.add_argument("--hops", type=int, default=200, help="per length of compute [200]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(arguments)
    if options.hops < 1 or min(options.compute) < 0:
        parser.error("--hops must be at least 1 and --compute at least 0")
    header = record.circumstances("latency.hop_latency", arguments)
    print(record.headline(header))
    hops = run(options.compute, options.hops)
    table = Table("compute", "transport", "worker", title="one verify hop beside its compute (ms, medians)")
    for hop in hops:
        table.add_row(f"{hop.compute_ms:g}", f"{hop.transport_ms:.2f}", f"{hop.worker_ms:.2f}")
    record.console().print(table)
    if options.json:
        record.write(options.json, header, {"hops": [asdict(hop) for hop in hops]})
    return 0


if __name__ == "__main__":
    sys.exit(main())
