"""A load step on a multi-node cluster: 2, then 40, then 2 sessions at once, while both tiers scale by themselves.

    python -m load_tests.faults.load_step [--low 2] [--high 40] [--seconds 15 60 50] [--json FILE] [--html FILE]

A Ray cluster on loopback addresses (a head with the gateway, a node for drafts, three for targets), the demo pair, one
to three targets and one or two drafts. Clients ask over HTTP, greedy and seeded in turn. Every second it notes
replicas, sessions, tokens per second and time to first token. The exit status is 1 if a request failed, if an
answer differs from another one to the same request, or if the targets did not scale up and down again. About
four minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from rich.table import Table

from adasd.charts.chart import Line, Lines, section
from adasd.charts.page import document, grid
from load_tests import record
from load_tests.demo_pair import DEMO
from load_tests.faults.known_answers import RequestOutcome, Work, ask, differing, work
from load_tests.faults.local_cluster import NodeSpec, local_cluster, values

NODES = (
    NodeSpec("draft-0", "127.0.0.2", "draft"),
    NodeSpec("target-0", "127.0.0.3", "target"),
    NodeSpec("target-1", "127.0.0.4", "target"),
    NodeSpec("target-2", "127.0.0.5", "target"),
)
NUM_SLOTS = 16
IDLE_S = 5.0
"""For what the cluster takes before any request: in a simulation, the ``background`` of its cores."""


@dataclass(frozen=True)
class LoadPhase:
    """This many sessions at once for this long."""

    concurrency: int
    seconds: float


@dataclass(frozen=True)
class TierSample:
    """The state of the service at one moment."""

    at_s: float
    asked: int  # sessions that clients keep running
    targets: int  # replicas that report
    drafts: int
    running: int  # answers in progress
    waiting: int  # of those, the ones without a target slot
    generated: float  # tokens since the start


# --------------------------------------------------------------------------- the service


def settings(target: Path, draft: Path, down_after_s: float) -> dict[str, Any]:
    """One to three targets, one or two drafts."""
    pace = {"down_after_s": down_after_s, "num_cpus": 0.5, "min_replicas": 1}
    return {
        "model_name": "pair",
        "target": {
            "model": str(target),
            "num_slots": NUM_SLOTS,
            "max_replicas": 3,
            "label_selector": {"pool": "target"},
            **pace,
        },
        "draft": {
            "model": str(draft),
            "num_slots": 2 * NUM_SLOTS,
            "max_replicas": 2,
            "label_selector": {"pool": "draft"},
            **pace,
        },
        "orchestrator": {"label_selector": {"pool": "gateway"}},
        "max_queued_requests": 40,
    }


def sample(metrics: str, at_s: float, asked: int) -> TierSample:
    """The values of one scrape."""
    return TierSample(
        at_s,
        asked,
        targets=len(values(metrics, "adasd_worker_slots", "target")),
        drafts=len(values(metrics, "adasd_worker_slots", "draft")),
        running=round(sum(values(metrics, "vllm:num_requests_running"))),
        waiting=round(sum(values(metrics, "vllm:num_requests_waiting"))),
        generated=sum(values(metrics, "vllm:generation_tokens_total")),
    )


# --------------------------------------------------------------------------- the load


def asked_at(phases: Sequence[LoadPhase], at_s: float) -> int:
    """Sessions at once at that moment; 0 after the last phase."""
    for phase in phases:
        if at_s < phase.seconds:
            return phase.concurrency
        at_s -= phase.seconds
    return 0


async def load(
    url: str, todo: Work, phases: Sequence[LoadPhase]
) -> tuple[list[RequestOutcome], list[TierSample]]:
    """Closed loop: client i sends requests while more than i sessions are wanted, and finishes the one it began."""
    zero_s, outcomes, samples = time.monotonic(), list[RequestOutcome](), list[TierSample]()
    most = max(phase.concurrency for phase in phases)
    end_s = sum(phase.seconds for phase in phases)
    keys = iter(range(1_000_000))

    async def one_client(number: int, client: httpx.AsyncClient) -> None:
        while (now_s := time.monotonic() - zero_s) < end_s:
            if number >= asked_at(phases, now_s):
                await asyncio.sleep(0.1)
                continue
            key = next(keys) % len(todo.bodies)
            outcomes.append(await ask(client, url, key, todo.bodies[key], zero_s))

    async def watch(client: httpx.AsyncClient) -> None:
        while (now_s := time.monotonic() - zero_s) < end_s:
            scraped = await client.get(f"{url}/metrics")
            samples.append(sample(scraped.text, now_s, asked_at(phases, now_s)))
            await asyncio.sleep(max(0.0, now_s + 1.0 - (time.monotonic() - zero_s)))

    limits = httpx.Limits(max_connections=most + 1)
    async with httpx.AsyncClient(timeout=httpx.Timeout(120.0), limits=limits) as client:
        await asyncio.gather(watch(client), *(one_client(number, client) for number in range(most)))
    return outcomes, samples


def cores_in_use(seconds: float) -> float:
    """Mean number of this machine's cores that everything on it takes during the next seconds."""
    before = record.machine_cpu()["machine in use"]
    time.sleep(seconds)
    return (record.machine_cpu()["machine in use"] - before) / seconds


# --------------------------------------------------------------------------- figures


def rates(samples: Sequence[TierSample]) -> list[float]:
    """Tokens per second since the previous sample."""
    found = [0.0]
    for before, now in pairwise(samples):
        found.append(max(0.0, now.generated - before.generated) / (now.at_s - before.at_s))
    return found


def first_token_ms(outcomes: Sequence[RequestOutcome], samples: Sequence[TierSample]) -> list[float | None]:
    """Per sample, the median of the answers whose first token came in the second before it."""
    found: list[float | None] = []
    for now in samples:
        firsts = [
            outcome.first_s
            for outcome in outcomes
            if outcome.first_s is not None and now.at_s - 1.0 <= outcome.began_s + outcome.first_s < now.at_s
        ]
        found.append(1e3 * median(firsts) if firsts else None)
    return found


def scaled(samples: Sequence[TierSample]) -> bool:
    """Whether there was one target, then more, then one again."""
    counts = [now.targets for now in samples]
    return bool(counts) and counts[0] == 1 and max(counts) > 1 and counts[-1] == 1


def table(outcomes: Sequence[RequestOutcome], samples: Sequence[TierSample], every_s: float = 5.0) -> Table:
    """One row per ``every_s`` seconds, and one for every change of replicas."""
    names = ("second", "asked", "targets", "drafts", "running", "waiting", "tokens/s", "first token (ms)")
    shown = Table(*names, title="Load step")
    before, next_s = None, 0.0
    for now, rate, first in zip(samples, rates(samples), first_token_ms(outcomes, samples), strict=True):
        if now.at_s < next_s and before == (now.targets, now.drafts):
            continue
        before, next_s = (now.targets, now.drafts), max(next_s, now.at_s // every_s * every_s + every_s)
        figures = (now.asked, now.targets, now.drafts, now.running, now.waiting)
        shown.add_row(
            f"{now.at_s:.0f}", *map(str, figures), f"{rate:.0f}", "-" if first is None else f"{first:.0f}"
        )
    return shown


def page(header: Mapping[str, Any], outcomes: Sequence[RequestOutcome], samples: Sequence[TierSample]) -> str:
    """Replicas, sessions, speed and time to first token over time, as one page."""
    charts = (
        ("replicas", {name: [getattr(now, name) for now in samples] for name in ("targets", "drafts")}),
        (
            "sessions",
            {name: [getattr(now, name) for now in samples] for name in ("asked", "running", "waiting")},
        ),
        ("tokens per second", {"all": rates(samples)}),
        ("time to first token (ms)", {"median": first_token_ms(outcomes, samples)}),
    )
    seconds = [round(now.at_s, 2) for now in samples]
    return document(
        "adasd load step",
        "Load step",
        (f"{len(outcomes)} requests", record.headline(header)),
        grid(
            [
                section(
                    Lines(title, "second", seconds, [Line(name, values) for name, values in lines.items()])
                )
                for title, lines in charts
            ]
        ),
    )


def main(arguments: list[str] | None = None) -> int:
    """Run, print, write; the module docstring explains the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m load_tests.faults.load_step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--target", type=Path, default=DEMO / "target")
    parser.add_argument("--draft", type=Path, default=DEMO / "draft")
    parser.add_argument("--low", type=int, default=2)
    parser.add_argument("--high", type=int, default=40)
    parser.add_argument("--seconds", type=float, nargs=3, default=(15.0, 60.0, 50.0), help="of each phase")
    parser.add_argument(
        "--down-after", type=float, default=10.0, help="down_after_s of both tiers (default 10)"
    )
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--html", type=Path, help="also write a page with charts to this file")
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(arguments)
    header = record.circumstances("faults.load_step", arguments)
    print(record.headline(header))
    levels = (options.low, options.high, options.low)
    phases = [LoadPhase(*each) for each in zip(levels, options.seconds, strict=True)]
    with local_cluster(NODES, settings(options.target, options.draft, options.down_after)) as made:
        idle_cores = cores_in_use(IDLE_S)
        outcomes, samples = asyncio.run(load(made.url, work(30, options.max_tokens), phases))
    record.console().print(table(outcomes, samples))
    failed = [outcome for outcome in outcomes if outcome.error]
    wrong = differing(outcomes)
    good = not failed and not wrong and scaled(samples)
    print(
        f"{len(outcomes)} answers, {len(failed)} failed, {len(wrong)} requests answered in two ways; targets "
        f"{'scaled up and down' if scaled(samples) else 'did not scale as they should'}"
    )
    for outcome in failed[:3]:
        print(f"failed after {outcome.total_s:.1f} s: {outcome.error}")
    if options.json:
        found: dict[str, Any] = {
            "idle_cores": round(idle_cores, 3),
            "answers": len(outcomes),
            "failed": [asdict(outcome) for outcome in failed],
            "answered_in_two_ways": wrong,
            "scaled": scaled(samples),
            "samples": [asdict(now) for now in samples],
            "tokens_per_s": rates(samples),
            "first_token_ms": first_token_ms(outcomes, samples),
        }
        record.write(options.json, header, found)
    if options.html:
        options.html.write_text(page(header, outcomes, samples), encoding="utf-8")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
