"""Does anybody notice? Requests under load while replicas, nodes, links and the configuration come and go.

A real multi-node Ray cluster on loopback addresses (a head with the gateway, a node for drafts, two for targets), the
service as ``serve deploy`` brings it up, HTTP clients. Faults (load_tests.faults.faults) are injected one after the
other: kills, frozen replicas, slow, dropping and cut links between gateway and workers, a rolling update. Every
answer must be the one given before the first fault; afterwards nothing may be left behind. Only the death of an
orchestrator ends streams: with an error event that says to send the request again, which clients do.

    python -m load_tests.faults.chaos --requests 300 --concurrency 16
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from load_tests import record
from load_tests.demo_pair import DEMO
from load_tests.faults.faults import (
    DRAFTS_GONE_S,
    ENDS_STREAMS,
    KINDS,
    LARGE_PROMPTS,
    LOSES_A_TARGET,
    Faults,
    possible,
)
from load_tests.faults.injector import Injection, injecting
from load_tests.faults.known_answers import RequestOutcome, Work, closed_loop, work
from load_tests.faults.local_cluster import LocalCluster, NodeSpec, local_cluster, values

NODES = (
    NodeSpec("draft-0", "127.0.0.2", "draft"),
    NodeSpec("target-0", "127.0.0.3", "target"),
    NodeSpec("target-1", "127.0.0.4", "target"),
)
IDLE_TIMEOUT_S = 150.0
LINGER_S = 14.0
"""Idle time after which unused channels are closed and stopped replicas have left the metrics."""
SLACK = {"files": 8, "tasks": 2}
"""How much idle counts may differ from before: the number of peers that a replica knows varies."""
AFTER_S = 3.0
"""Requests that begin within this many seconds after the loss of a target."""


def settings(
    target: Path = DEMO / "target", draft: Path = DEMO / "draft", num_slots: int = 32
) -> dict[str, Any]:
    """The deployed settings."""
    placed = {"num_slots": num_slots, "num_cpus": 0.5}
    two = {"min_replicas": 2, "max_replicas": 2}
    return {
        "model_name": "pair",
        "target": {"model": str(target), "label_selector": {"pool": "target"}, **two, **placed},
        "draft": {"model": str(draft), "label_selector": {"pool": "draft"}, **placed},
        "orchestrator": {"label_selector": {"pool": "gateway"}, "replicas": 2},
        "speculation": {"bypass": False},  # drafts whenever there is a draft, so that losing it has an effect
        "verify_timeout_s": 20.0,
        "admission_timeout_s": 90.0,
        "draft_timeout_s": 1.0,
    }


def run(
    target: Path,
    draft: Path,
    num_requests: int,
    concurrency: int,
    every_s: float,
    seed: int,
    max_tokens: int,
    kinds: Sequence[str] | None = None,
    drafts_gone_s: float = DRAFTS_GONE_S,
) -> dict[str, Any]:
    """The whole experiment on its own cluster, by default with all faults that are possible here."""
    kinds = possible() if kinds is None else kinds
    todo = work(num_distinct=min(30, num_requests), max_tokens=max_tokens)
    deployed = settings(target, draft, num_slots=2 * concurrency)
    with local_cluster(NODES, deployed) as made:
        before = calm_load(made, todo)
        footprint_before = footprint(made)
        faults = Faults(made, deployed, random.Random(seed), drafts_gone_s)
        outcomes, injections = asyncio.run(
            under_faults(faults, todo, num_requests, concurrency, every_s, kinds)
        )
        idle_after_s = until_idle(made)
        again = calm_load(made, todo)
        return {
            **figures(before, [*outcomes, *again], injections),
            "idle_after_s": idle_after_s,
            "ready": made.is_ready(),
            "footprint": {"before": footprint_before, "after": footprint(made)},
            "held": made.held(),
        }


async def under_faults(
    faults: Faults, todo: Work, num_requests: int, concurrency: int, every_s: float, kinds: Sequence[str]
) -> tuple[list[RequestOutcome], list[Injection]]:
    """The load with a fault every ``every_s`` seconds, until the requests are done and each kind was injected."""
    zero_s = time.monotonic()

    def tell(injection: Injection) -> None:
        print(f"{injection.at_s:6.1f} s  {injection.kind} ({injection.what})", flush=True)

    async with injecting(faults, lambda: time.monotonic() - zero_s, every_s, kinds, tell) as injections:

        def is_enough(done: Sequence[RequestOutcome]) -> bool:
            return len(done) >= num_requests and {injection.kind for injection in injections} >= set(kinds)

        outcomes = await closed_loop(faults.cluster.url, todo, concurrency, is_enough, zero_s)
    return outcomes, injections


def calm_load(made: LocalCluster, todo: Work) -> list[RequestOutcome]:
    """Every request once, without faults; RuntimeError if one fails."""
    outcomes = asyncio.run(closed_loop(made.url, todo, 4, lambda done: len(done) >= len(todo.bodies)))
    if problems := [outcome.error for outcome in outcomes if outcome.error]:
        raise RuntimeError(f"requests failed while nothing was wrong: {problems[:3]}")
    return outcomes


def until_idle(made: LocalCluster) -> float:
    """Seconds until both tiers serve and nothing is held, at most IDLE_TIMEOUT_S."""
    begun_s = time.monotonic()
    while time.monotonic() - begun_s < IDLE_TIMEOUT_S and not (made.is_ready() and made.is_idle()):
        time.sleep(0.5)
    return time.monotonic() - begun_s


def footprint(made: LocalCluster) -> dict[str, dict[str, float]]:
    """Open files and tasks of each role's replica with the most, once the service has been idle for LINGER_S."""
    time.sleep(LINGER_S)
    text = made.metrics()
    names = {"files": "adasd_process_open_files", "tasks": "adasd_process_tasks"}
    return {
        role: {what: max(values(text, name, role), default=0.0) for what, name in names.items()}
        for role in ("orchestrator", "target", "draft")
    }


# --------------------------------------------------------------------------- verdict


def figures(
    before: Sequence[RequestOutcome], outcomes: Sequence[RequestOutcome], injections: Sequence[Injection]
) -> dict[str, Any]:
    """The reported figures; ``wrong`` and ``failed`` must be empty."""
    expected = {outcome.key: outcome.text for outcome in before}
    losses_s = [fault.at_s for fault in injections if fault.kind in LOSES_A_TARGET]
    after_loss = [o for o in outcomes if any(at_s <= o.began_s <= at_s + AFTER_S for at_s in losses_s)]
    wrong = [o for o in outcomes if not o.error and o.text != expected[o.key]]
    return {
        "requests": len(outcomes),
        "failed": [asdict(outcome) for outcome in outcomes if outcome.error],
        "wrong": [{"key": o.key, "got": o.text, "expected": expected[o.key]} for o in wrong],
        "retried": sum(o.num_retries for o in outcomes),
        "faults": [asdict(fault) for fault in injections],
        "first_token_s": spread([o.first_s for o in outcomes]),
        "first_token_after_target_loss_s": spread([o.first_s for o in after_loss]),
        "longest_pause_s": spread([o.longest_pause_s for o in outcomes]),
        "answer_s": spread([o.total_s for o in outcomes]),
    }


def spread(seconds: Sequence[float | None]) -> dict[str, float] | None:
    """Median and worst; None without values."""
    found = sorted(value for value in seconds if value is not None)
    return {"median": median(found), "max": found[-1], "of": len(found)} if found else None


def complaints(found: dict[str, Any]) -> list[str]:
    """Sentences about failures; empty if clients noticed nothing."""
    problems = []
    if found["failed"]:
        problems.append(f"{len(found['failed'])} requests failed, the first: {found['failed'][0]['error']}")
    if found["wrong"]:
        problems.append(f"{len(found['wrong'])} answers differ from those of a calm day")
    if found["retried"] and ENDS_STREAMS not in [fault["kind"] for fault in found["faults"]]:
        problems.append(f"{found['retried']} requests had to be sent again though no orchestrator was killed")
    said = {fault["what"] for fault in found["faults"] if fault["kind"] == LARGE_PROMPTS}
    if unlike := [statuses for statuses in said if set(statuses.split()) != {"400"}]:
        problems.append(f"prompts beyond the context were answered with {unlike[0]}, not with 400")
    if any(found["held"].values()):
        problems.append(f"still held: {found['held']}")
    if not found["ready"]:
        problems.append("the service is not ready again with both tiers")
    before, after = found["footprint"]["before"], found["footprint"]["after"]
    for role, what in ((role, what) for role in before for what in SLACK):
        if after[role][what] > before[role][what] + SLACK[what]:
            problems.append(f"{role}: {what} grew from {before[role][what]:g} to {after[role][what]:g}")
    return problems


def main(arguments: list[str] | None = None) -> int:
    """Run, print, write; the exit status is 1 if clients noticed anything."""
    parser = argparse.ArgumentParser(
        prog="python -m load_tests.faults.chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--target", type=Path, default=DEMO / "target")
    parser.add_argument("--draft", type=Path, default=DEMO / "draft")
    parser.add_argument("--requests", type=int, default=300, help="at least (default 300)")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--every", type=float, default=8.0, help="seconds between faults")
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", "--blows", nargs="+", choices=KINDS, default=possible(), metavar="KIND")
    parser.add_argument("--json", type=Path, help="write figures here")
    arguments = sys.argv[1:] if arguments is None else arguments
    given = parser.parse_args(arguments)
    header = record.circumstances("faults.chaos", arguments)
    found = run(
        given.target,
        given.draft,
        given.requests,
        given.concurrency,
        given.every,
        given.seed,
        given.max_tokens,
        tuple(given.faults),
    )
    console = record.console()
    console.print(record.headline(header))
    console.print_json(json.dumps(found))
    problems = complaints(found)
    for problem in problems:
        print(problem)
    if given.json:
        record.write(given.json, header, {**found, "complaints": problems})
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
