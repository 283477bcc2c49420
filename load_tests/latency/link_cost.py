"""What a round costs beside the models: processor time of the orchestrator's side and of each worker, by sessions.

    python -m load_tests.latency.link_cost [--sessions 1 8 64 256] [--seconds 3] [--against DIR] [--json FILE]

Draft and target are processes of their own with engines that only count; the client is this process, with an event
loop as in production (uvloop). *link*: every session asks for a block and its verdict, one after the other, without
session or controller. *runner*: the real runner, session and controller give one endless row of answers, in turn or
drafting ahead. Processor time (user and system, all threads) hardly depends on the load of others; rates and round
times do. "rounds per core" is 1 s by the orchestrator's time per round. *Growth* is how much more processor time of all
three a round takes with the most sessions than with the fewest from GROWS_FROM on.

``--against DIR`` measures another checkout as well, in turn with this one (``--repeats``), each in processes of its
own. Figures are medians over the repeats.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from multiprocessing import active_children
from pathlib import Path
from statistics import median
from typing import Any

import uvloop
from rich.table import Table

from adasd.config import SpeculationConfig
from adasd.control.controller import Controller
from adasd.drafters.lookups import Lookups
from adasd.requests import GenerationRequest, SamplingParams, SpeculationOptions
from adasd.rounds import DraftCall, OpenCall, RoundCompleted, SamplingTransform, StopRule, VerifyCall
from adasd.session.runner import Runner, SharedParts
from adasd.session.slots import Observation, RunnerSettings
from load_tests import record
from load_tests.latency.counting_engine import CountingEngine
from load_tests.latency.pipelining import Lines
from load_tests.latency.round_trip import worker
from services.transport.link import WorkerAddress
from services.transport.link_pool import LinkPool
from services.transport.rounds_client import RoundsLine

WAYS = ("link", "in turn", "ahead")
BLOCK_LEN = 8
MAX_TOKENS = 400
"""Tokens per answer of a runner; then the session begins another one."""
WARM_UP_S = 0.5
WARM_UP_ROUNDS = 30
"""Rounds per session of a runner before measuring: a method that has seen little makes a forecast every round."""
GROWS_FROM = 8
"""Sessions. Frames with fewer carry little, and each round pays for its own."""
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class RoundCost:
    """One way at one number of sessions."""

    way: str
    sessions: int
    orchestrator_us: float  # processor time per round
    draft_us: float
    target_us: float
    rounds_per_s: float
    p50_ms: float  # of a round

    @property
    def rounds_per_core(self) -> float:
        return 1e6 / self.orchestrator_us

    @property
    def processor_us(self) -> float:
        return self.orchestrator_us + self.draft_us + self.target_us


def growth(costs: Sequence[RoundCost]) -> dict[str, float]:
    """By way: the share by which a round of the most sessions exceeds one of the fewest from GROWS_FROM on."""
    found = {}
    for way in dict.fromkeys(one.way for one in costs):
        many = sorted((one for one in costs if one.way == way), key=lambda one: one.sessions)
        many = [one for one in many if one.sessions >= GROWS_FROM]
        if len(many) > 1:
            found[way] = many[-1].processor_us / many[0].processor_us - 1.0
    return found


class Count:
    """Rounds so far, and how long the newest ones took."""

    def __init__(self) -> None:
        self.num_rounds = 0
        self.times_ms: list[float] = []
        self._began_s: dict[str, float] = {}

    def begin(self, session: str) -> None:
        self._began_s[session] = time.perf_counter()

    def add(self, session: str) -> None:
        """The session's round is over, and the next one begins."""
        now_s = time.perf_counter()
        self.num_rounds += 1
        self.times_ms.append(1e3 * (now_s - self._began_s.get(session, now_s)))
        self._began_s[session] = now_s


async def ask_in_turn(lines: tuple[RoundsLine, RoundsLine], session: str, count: Count) -> None:
    """Rounds without end: a block, then its verdict."""
    draft, target = lines
    epoch = 0
    count.begin(session)
    while True:
        feed = (epoch % 1000,)
        drafted = await draft.draft(DraftCall(session, epoch, 0, feed, StopRule(BLOCK_LEN)))
        verdict = await target.verify(
            VerifyCall(session, epoch + 1, 0, feed, drafted.tokens, confidences=drafted.confidences)
        )
        assert verdict.num_accepted == BLOCK_LEN
        epoch += 2
        count.add(session)


async def answer_in_turn(shared: SharedParts, lines: Lines, session: str, count: Count) -> None:
    """Answers without end."""

    def note(done: Observation) -> None:
        if isinstance(done, RoundCompleted) and not done.prefill:
            count.add(session)

    sampling = SamplingParams(MAX_TOKENS, temperature=0.0)
    while True:
        count.begin(session)
        request = GenerationRequest(session, (1, 2, 3), sampling, SpeculationOptions())
        async for _ in Runner(request, shared, lines, note).run():
            pass


def shared_parts(*, ahead: bool) -> SharedParts:
    """As in production, with the default methods; without the gate, so that every round drafts."""
    controller = Controller(SpeculationConfig(bypass=False, draft_ahead=ahead))
    settings = RunnerSettings(request_timeout_s=600.0, draft_timeout_s=60.0, reattach_s=1.0)
    return SharedParts(controller, Lookups(), frozenset(), lambda _: "", 4096, settings)


def processor_s(pid: int) -> float:
    """User and system time of a process with all its threads, in seconds."""
    after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / TICKS_PER_S


async def measure(
    way: str, sessions: Sequence[str], at: Sequence[WorkerAddress], pids: Sequence[int], seconds: float
) -> RoundCost:
    """Run all sessions for this long, on fresh streams."""
    pool, count = LinkPool(), Count()
    opened: list[RoundsLine] = []
    tasks: list[asyncio.Task[None]] = []
    try:
        if way == "link":
            for session in sessions:
                pair = tuple(RoundsLine(pool, one, session, timeout_s=60.0) for one in at)
                opened += pair
                for line in pair:
                    await line.open(OpenCall(session, SamplingTransform(), max_len=64))
                tasks.append(asyncio.create_task(ask_in_turn((pair[0], pair[1]), session, count)))
        else:
            shared, lines = shared_parts(ahead=way == "ahead"), Lines(pool, at[0], at[1], 0.0)
            tasks = [asyncio.create_task(answer_in_turn(shared, lines, one, count)) for one in sessions]
        await asyncio.sleep(WARM_UP_S)
        warm = 0 if way == "link" else WARM_UP_ROUNDS * len(sessions)
        while count.num_rounds < warm and not any(task.done() for task in tasks):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        count.num_rounds, count.times_ms = 0, []
        before, began_s = [processor_s(pid) for pid in pids], time.perf_counter()
        _, pending = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        took_s = time.perf_counter() - began_s
        spent_us = [1e6 * (processor_s(pid) - was) for pid, was in zip(pids, before, strict=True)]
        if len(pending) < len(tasks):
            raise RuntimeError("a session ended") from next(t for t in tasks if t.done()).exception()
        per_round = [us / count.num_rounds for us in spent_us]
        return RoundCost(way, len(sessions), *per_round, count.num_rounds / took_s, median(count.times_ms))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(line.close() for line in opened))
        await pool.close()


def run(ways: Sequence[str], numbers: Sequence[int], seconds: float) -> list[RoundCost]:
    """All ways at all numbers of sessions, with fresh workers for each number."""
    costs = []
    for way in ways:
        for number in numbers:
            sessions = [f"s{i}" for i in range(number)]
            engine = partial(CountingEngine, num_slots=number)
            with worker("draft", sessions, engine) as draft_at:
                draft = {child.pid for child in active_children()}
                with worker("target", sessions, engine) as target_at:
                    target = {child.pid for child in active_children()} - draft
                    pids = [pid for pid in (os.getpid(), *draft, *target) if pid is not None]
                    costs.append(uvloop.run(measure(way, sessions, (draft_at, target_at), pids, seconds)))
    return costs


# --------------------------------------------------------------------------- other checkouts, figures


def run_in(folder: Path, ways: Sequence[str], numbers: Sequence[int], seconds: float) -> list[RoundCost]:
    """The same in another checkout, in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "costs.json"
        command = [sys.executable, "-m", "load_tests.latency.link_cost", "--repeats", "1", "--json", str(out)]
        command += ["--ways", *ways, "--sessions", *map(str, numbers), "--seconds", str(seconds)]
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
        found = json.loads(out.read_text(encoding="utf-8"))["costs"]
    names = {one.name for one in fields(RoundCost)}
    return [RoundCost(**{name: one[name] for name in names}) for one in found]


def medians(repeats: Sequence[Sequence[RoundCost]]) -> list[RoundCost]:
    """Per way and number of sessions."""
    return [
        RoundCost(
            same[0].way,
            same[0].sessions,
            *(median(getattr(one, name.name) for one in same) for name in fields(RoundCost)[2:]),
        )
        for same in zip(*repeats, strict=True)
    ]


def table(costs: Sequence[RoundCost], title: str) -> Table:
    shown = Table(
        "way", "sessions", "orchestrator us", "draft us", "target us", "rounds/s", "rounds per core", "p50 ms"
    )
    shown.title = title
    for one in costs:
        shown.add_row(
            one.way,
            str(one.sessions),
            *(f"{us:.0f}" for us in (one.orchestrator_us, one.draft_us, one.target_us)),
            f"{one.rounds_per_s:.0f}",
            f"{one.rounds_per_core:.0f}",
            f"{one.p50_ms:.2f}",
        )
    return shown


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m load_tests.latency.link_cost", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="what is measured [all]")
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 8, 64, 256], help="[1 8 64 256]")
    parser.add_argument("--seconds", type=float, default=3.0, help="per figure [3]")
    parser.add_argument("--repeats", type=int, default=3, help="[3]")
    parser.add_argument("--against", type=Path, metavar="DIR", help="another checkout with this benchmark")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(arguments)
    if min(options.sessions) < 1 or options.seconds <= 0 or options.repeats < 1:
        parser.error("--sessions and --repeats must be at least 1 and --seconds above 0")
    header = record.circumstances("latency.link_cost", arguments)
    print(record.headline(header))
    what = (options.ways, options.sessions, options.seconds)
    ours, theirs = [], []
    for _ in range(options.repeats):
        ours.append(run(*what))
        if options.against:
            theirs.append(run_in(options.against, *what))
    title = f"a round beside the models, blocks of {BLOCK_LEN} (link)"
    found: dict[str, Any] = {"costs": [shown(one) for one in medians(ours)]}
    found["growth"] = {way: round(share, 4) for way, share in growth(medians(ours)).items()}
    record.console().print(table(medians(ours), title))
    for way, share in found["growth"].items():
        record.console().print(f"growth, {way}: {share:+.1%}", highlight=False)
    if theirs:
        found["against"] = [shown(one) for one in medians(theirs)]
        record.console().print(table(medians(theirs), f"{title}, the other checkout"))
    if options.json:
        record.write(options.json, header, found)
    return 0


def shown(cost: RoundCost) -> Mapping[str, float | int | str]:
    """For the file."""
    return {name: round(v, 2) if isinstance(v, float) else v for name, v in asdict(cost).items()}


if __name__ == "__main__":
    sys.exit(main())
