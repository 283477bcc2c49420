"""Does anybody notice? Requests under load while replicas, nodes, links and the configuration come and go.

A real multi-node Ray cluster on loopback addresses (a head with the gateway, a node for drafts, two for targets), the
service as ``serve deploy`` brings it up, HTTP clients. Blows (load_tests.faults.faults) fall one after the other:
kills, frozen replicas, slow, dropping and cut links between gateway and workers, a rolling update. Every answer must
be the one given before the first blow; afterwards nothing may be left behind.

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
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from load_tests import record
from load_tests.faults.faults import KINDS, LOSES_A_TARGET, Blows
from load_tests.faults.known_answers import Outcome, Work, closed_loop, work
from load_tests.local_cluster import NodeSpec, Rig, rig, values

DEMO = record.ROOT / "models" / "demo"
NODES = (
    NodeSpec("draft-0", "127.0.0.2", "draft"),
    NodeSpec("target-0", "127.0.0.3", "target"),
    NodeSpec("target-1", "127.0.0.4", "target"),
)
IDLE_TIMEOUT_S = 150.0
LINGER_S = 14.0
"""After that much idleness unused channels are closed and ended replicas have left the metrics."""
RECOVERY_S = 15.0
"""After a blow the next one waits so long for the service to be whole again."""
SLACK = {"files": 8, "tasks": 2}
"""By how much idle counts may differ from before: a replica knows as many peers as there happen to be."""
AFTER_S = 3.0
"""Requests that begin within so many seconds after a target was lost."""


@dataclass(frozen=True, slots=True)
class Fell:
    """A blow, and when it fell (seconds since the load began)."""

    kind: str
    what: str
    at_s: float


def settings(target: Path, draft: Path, num_slots: int) -> dict[str, Any]:
    """What is deployed."""
    placed = {"num_slots": num_slots, "num_cpus": 0.5}
    two = {"min_replicas": 2, "max_replicas": 2}
    return {
        "model_name": "pair",
        "target": {"model": str(target), "label_selector": {"pool": "target"}, **two, **placed},
        "draft": {"model": str(draft), "label_selector": {"pool": "draft"}, **placed},
        "orchestrator": {"label_selector": {"pool": "gateway"}},
        "speculation": {"bypass": False},  # drafts whenever there is a draft, so that it is missed
        "verify_timeout_s": 20.0,
        "admission_timeout_s": 90.0,
        "draft_timeout_s": 1.0,
    }


async def storm(
    made: Rig,
    blows: Blows,
    todo: Work,
    num_requests: int,
    concurrency: int,
    every_s: float,
    kinds: Sequence[str],
) -> tuple[list[Outcome], list[Fell]]:
    """The load with a blow every ``every_s`` seconds: each kind in turn, then at random until the requests are done."""
    fell, zero_s, order = list[Fell](), time.monotonic(), list(kinds)
    blows.rng.shuffle(order)
    calm, undoing = asyncio.Event(), set[asyncio.Task[None]]()

    async def undo(action: Any, after_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(after_s):
                await calm.wait()
        await asyncio.to_thread(action)

    async def strike() -> None:
        while not calm.is_set():
            kind = order.pop() if order else blows.rng.choice(kinds)
            at_s = time.monotonic() - zero_s
            struck = await asyncio.to_thread(blows.strike, kind)
            if struck is None:
                order.insert(0, kind)  # there was nothing to hit: later
            else:
                print(f"{at_s:6.1f} s  {kind} ({struck.what})", flush=True)
                fell.append(Fell(kind, struck.what, at_s))
                if struck.undo is not None:
                    undoing.add(asyncio.create_task(undo(struck.undo, struck.lasts_s)))
            with suppress(TimeoutError):
                async with asyncio.timeout(every_s):
                    await calm.wait()
            await asyncio.to_thread(recover, made)

    striking = asyncio.create_task(strike())
    try:
        outcomes = await closed_loop(
            made.url, todo, concurrency, lambda done: len(done) >= num_requests and not order, zero_s
        )
    finally:
        calm.set()
        await asyncio.gather(striking, *undoing)
        await asyncio.to_thread(made.restart_dead_nodes)
    return outcomes, fell


def run(
    target: Path,
    draft: Path,
    num_requests: int,
    concurrency: int,
    every_s: float,
    seed: int,
    max_tokens: int,
    kinds: Sequence[str] = tuple(KINDS),
) -> dict[str, Any]:
    """The whole experiment on a cluster of its own."""
    todo = work(num_distinct=min(30, num_requests), max_tokens=max_tokens)
    deployed = settings(target, draft, num_slots=2 * concurrency)
    with rig(NODES, deployed) as made:
        before = calm_load(made, todo)
        footprint_before = footprint(made)
        outcomes, fell = asyncio.run(
            storm(
                made,
                Blows(made, deployed, random.Random(seed)),
                todo,
                num_requests,
                concurrency,
                every_s,
                kinds,
            )
        )
        idle_after_s = until_idle(made)
        again = calm_load(made, todo)
        return {
            **figures(before, [*outcomes, *again], fell),
            "idle_after_s": idle_after_s,
            "ready": made.is_ready(),
            "footprint": {"before": footprint_before, "after": footprint(made)},
            "held": made.held(),
        }


def recover(made: Rig) -> None:
    """Wait until both tiers serve, but not for long: some blows shall fall before."""
    begun_s = time.monotonic()
    while time.monotonic() - begun_s < RECOVERY_S and not made.is_ready():
        time.sleep(0.5)


def calm_load(made: Rig, todo: Work) -> list[Outcome]:
    """Every request once, while nobody disturbs; RuntimeError if one fails."""
    outcomes = asyncio.run(closed_loop(made.url, todo, 4, lambda done: len(done) >= len(todo.bodies)))
    if problems := [outcome.error for outcome in outcomes if outcome.error]:
        raise RuntimeError(f"requests failed while nothing was wrong: {problems[:3]}")
    return outcomes


def until_idle(made: Rig) -> float:
    """Seconds until both tiers serve and nothing is held, at most IDLE_TIMEOUT_S."""
    begun_s = time.monotonic()
    while time.monotonic() - begun_s < IDLE_TIMEOUT_S and not (made.is_ready() and made.is_idle()):
        time.sleep(0.5)
    return time.monotonic() - begun_s


def footprint(made: Rig) -> dict[str, dict[str, float]]:
    """Open files and tasks of the fullest replica of each role, once it has been idle for LINGER_S."""
    time.sleep(LINGER_S)
    text = made.metrics()
    names = {"files": "adasd_process_open_files", "tasks": "adasd_process_tasks"}
    return {
        role: {what: max(values(text, name, role), default=0.0) for what, name in names.items()}
        for role in ("orchestrator", "target", "draft")
    }


# --------------------------------------------------------------------------- verdict


def figures(before: Sequence[Outcome], outcomes: Sequence[Outcome], fell: Sequence[Fell]) -> dict[str, Any]:
    """What is reported; ``wrong`` and ``failed`` must be empty."""
    expected = {outcome.key: outcome.text for outcome in before}
    losses_s = [blow.at_s for blow in fell if blow.kind in LOSES_A_TARGET]
    after_loss = [o for o in outcomes if any(at_s <= o.began_s <= at_s + AFTER_S for at_s in losses_s)]
    wrong = [o for o in outcomes if not o.error and o.text != expected[o.key]]
    return {
        "requests": len(outcomes),
        "failed": [asdict(outcome) for outcome in outcomes if outcome.error],
        "wrong": [{"key": o.key, "got": o.text, "expected": expected[o.key]} for o in wrong],
        "blows": [asdict(blow) for blow in fell],
        "first_token_s": spread([o.first_s for o in outcomes]),
        "first_token_after_target_loss_s": spread([o.first_s for o in after_loss]),
        "longest_pause_s": spread([o.longest_pause_s for o in outcomes]),
        "answer_s": spread([o.total_s for o in outcomes]),
    }


def spread(seconds: Sequence[float | None]) -> dict[str, float] | None:
    """Median and worst; None of nothing."""
    found = sorted(value for value in seconds if value is not None)
    return {"median": median(found), "max": found[-1], "of": len(found)} if found else None


def complaints(found: dict[str, Any]) -> list[str]:
    """What must not be; empty if nobody noticed."""
    problems = []
    if found["failed"]:
        problems.append(f"{len(found['failed'])} requests failed, the first: {found['failed'][0]['error']}")
    if found["wrong"]:
        problems.append(f"{len(found['wrong'])} answers differ from those of a calm day")
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
    """Run, print, write; the exit status is 1 if anything was noticed."""
    parser = argparse.ArgumentParser(
        prog="python -m load_tests.faults.chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--target", type=Path, default=DEMO / "target")
    parser.add_argument("--draft", type=Path, default=DEMO / "draft")
    parser.add_argument("--requests", type=int, default=300, help="at least (default 300)")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--every", type=float, default=8.0, help="seconds between blows")
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--blows", nargs="+", choices=KINDS, default=tuple(KINDS), metavar="KIND")
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
        tuple(given.blows),
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
