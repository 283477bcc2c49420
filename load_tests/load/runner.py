"""Runs one scenario from the first request to the verdict, including failures on the way."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from load_tests.faults import chaos
from load_tests.faults.faults import Faults, unnoticed
from load_tests.faults.injector import EVERY_S, Injection, injecting
from load_tests.load.answers import Outcome, Reply
from load_tests.load.doors import Clock, Door, GrpcClient, HttpClient
from load_tests.load.generator import ArrivalPhase, Generator, Strain
from load_tests.load.goodput import attainment, is_held
from load_tests.load.load_figures import worded_differently
from load_tests.load.request_mix import short, whole
from load_tests.load.scenarios import SOAK_TOKENS, Scenario
from load_tests.load.scrape import Scrape
from load_tests.load.server_under_test import Server, footprint
from load_tests.load.stage import Options, Stage
from load_tests.load.watch import GONE_AFTER_S, ServerGone, Watch

IDLE_WITHIN_S = 60.0
UNDER_FIRE_S = 60.0
"""How long a server under fault injection may be silent before it counts as gone."""
PROGRESS_S = 0.5
WARM_UP_CLIENTS = 16
MOST_WARM_UP = 1000
WARM_UP = "warm-up"
"""A phase whose answers are not counted."""
GROWTH = {
    "resident_mb": (1.1, 50.0),
    "open_files": (1.05, 16.0),
    "threads": (1.05, 8.0),
    "tasks": (1.05, 8.0),
}
"""Allowed growth: (factor, absolute amount) over the value before."""

Show = Callable[[Stage], None]


@dataclass(frozen=True, slots=True)
class ServerState:
    """The idle server: its own figures, and those of all its processes if we started them."""

    service: Scrape | None
    processes: Mapping[str, float] | None


@dataclass(slots=True)
class ScenarioRun:
    """All measurements of one run."""

    scenario: Scenario
    options: Options
    answers: list[Reply] = field(default_factory=list)
    phases: list[ArrivalPhase] = field(default_factory=list)
    samples: list[Scrape] = field(default_factory=list)
    injections: list[Injection] = field(default_factory=list)
    before: ServerState | None = None
    after: ServerState | None = None
    began_s: float = 0.0  # of the first phase that is counted
    ended_s: float = 0.0
    strain: Strain = field(default_factory=Strain)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # empty: passed
    found: dict[str, Any] = field(default_factory=dict)
    ended_early: str | None = None  # why the run was cut short, in one sentence
    was_interrupted: bool = False

    @property
    def seconds(self) -> float:
        """How long the counted load took."""
        return self.ended_s - self.began_s


async def run(
    scenario: Scenario, server: Server, options: Options, show: Show = lambda _: None
) -> ScenarioRun:
    """Warm up, load, settle, compare with the state before.

    If it is cancelled or the server dies, it returns the measurements so far, with the reason in ``ended_early``.
    Raises ServerGone only if the first answer already failed, so that nothing was measured.
    """
    begun_s = time.monotonic()

    def now() -> float:
        return time.monotonic() - begun_s

    doors = _doors(server, options, now)
    done = ScenarioRun(scenario, options)
    try:
        await _warm_up(doors, server, now)
        begun_s = time.monotonic()
        watch = Watch(server.url, server.api_key, now, UNDER_FIRE_S if scenario.under_fire else GONE_AFTER_S)
        stage = Stage(server, options, Generator(doors, now))
        try:
            await _play(done, stage, watch, show)
        except asyncio.CancelledError:
            done.ended_early, done.was_interrupted = f"interrupted after {now():.0f} s", True
            with suppress(asyncio.CancelledError):  # interrupted a second time
                await _look_once_more(done, stage, watch)
        except (ServerGone, RuntimeError) as error:  # RuntimeError: a command of the cluster failed
            done.ended_early = str(error)
        finally:
            done.strain = stage.generator.strain()
            await stage.generator.close()
        _collect(done, stage, watch)
        return done
    finally:
        for door in doors.values():
            await door.close()


async def _play(done: ScenarioRun, stage: Stage, watch: Watch, show: Show) -> None:
    """The scenario itself, while the watch runs."""
    watching = asyncio.ensure_future(watch.run())
    showing = asyncio.ensure_future(_keep_showing(stage, show))
    playing = asyncio.ensure_future(_look_and_play(done, stage, watch))
    try:
        await asyncio.wait([watching, playing], return_when=asyncio.FIRST_COMPLETED)
        if not playing.done():
            watching.result()  # raises: the server is gone
        playing.result()
        await stage.settle()
        done.ended_s = stage.generator.now()
        done.after = await _idle(stage, watch)
    finally:
        for task in (playing, watching, showing):
            task.cancel()
        await asyncio.gather(playing, watching, showing, return_exceptions=True)


async def _look_and_play(done: ScenarioRun, stage: Stage, watch: Watch) -> None:
    share = done.scenario.warm_up_share
    wanted = int(share * (stage.options.num_requests or done.scenario.num_requests))
    if num_requests := min(wanted, MOST_WARM_UP):
        clients = stage.options.num_clients or WARM_UP_CLIENTS
        await stage.generator.closed_loop(WARM_UP, clients, short(SOAK_TOKENS), num_requests=num_requests)
        stage.expect_no_failure("requests of the warm-up", stage.of(WARM_UP))
    done.before = await _idle(stage, watch)
    if not done.scenario.under_fire:
        await done.scenario.play(stage)
        return
    assert stage.server.cluster is not None
    faults = Faults(stage.server.cluster, chaos.settings(), random.Random(stage.options.seed))
    async with injecting(faults, stage.generator.now, EVERY_S, unnoticed()) as done.injections:
        await done.scenario.play(stage)


async def _look_once_more(done: ScenarioRun, stage: Stage, watch: Watch) -> None:
    """After an interruption, where what a server holds must not grow: let running answers end, and look."""
    if done.scenario.stays_flat and done.before is not None:
        await stage.settle()
        done.after = await _idle(stage, watch)


async def _keep_showing(stage: Stage, show: Show) -> None:
    while True:
        show(stage)
        await asyncio.sleep(PROGRESS_S)


def _doors(server: Server, options: Options, now: Clock) -> dict[str, Door]:
    doors: dict[str, Door] = {}
    if "http" in options.doors:
        doors["http"] = HttpClient(server.url, server.api_key, now)
    if "grpc" in options.doors and server.grpc:
        doors["grpc"] = GrpcClient(server.grpc, server.api_key, now)
    return doors


async def _warm_up(doors: Mapping[str, Door], server: Server, now: Clock) -> None:
    """One uncounted answer through each interface; ServerGone if it fails."""
    for name, door in doors.items():
        answer = Reply(next(whole()), name, now(), now())
        await door.ask(answer.ask, answer)
        if answer.outcome is not Outcome.DONE:
            where = server.url if name == "http" else server.grpc
            raise ServerGone(f"the first request over {name} to {where} failed: {answer.error}")


async def _snapshot(server: Server, watch: Watch) -> ServerState:
    own = server.processes
    return ServerState(await watch.once(), await asyncio.to_thread(lambda: footprint(own())) if own else None)


async def _idle(stage: Stage, watch: Watch) -> ServerState:
    """Wait until the service holds nothing; records a problem if it still does at the end."""
    until_s = stage.generator.now() + (2 if stage.server.cluster else 1) * IDLE_WITHIN_S
    while True:
        seen = await watch.once()
        held = {} if seen is None else {name: n for name, n in seen.held.items() if n}
        if not held:
            return await _snapshot(stage.server, watch)
        if stage.generator.now() > until_s:
            left = ", ".join(f"{n} {name}" for name, n in held.items())
            stage.problems.append(f"with nobody asking, the service still holds {left}")
            return await _snapshot(stage.server, watch)
        await asyncio.sleep(0.5)


def _collect(done: ScenarioRun, stage: Stage, watch: Watch) -> None:
    """Collect all results and the verdict."""
    generator = stage.generator
    done.answers = [answer for answer in generator.answers if answer.phase != WARM_UP]
    done.phases = [phase for phase in generator.phases if phase.name != WARM_UP]
    done.samples = watch.samples
    done.began_s = min((phase.began_s for phase in done.phases), default=0.0)
    done.ended_s = max([done.ended_s, *(answer.ended_s for answer in done.answers)])
    done.notes, done.found = stage.notes, stage.found
    done.problems = [*stage.problems, *problems(done)]


def problems(done: ScenarioRun) -> list[str]:
    """Failures of any scenario, and the objective if the scenario judges it."""
    found = []
    if changed := worded_differently(done.answers):
        found.append(
            f"{len(changed)} prompts got different texts although exact and greedy; one is {changed[0]}"
        )
    objective = done.options.objective
    if done.scenario.judge_objective and not is_held(objective, done.answers):
        found.append(
            f"{attainment(objective, done.answers):.1%} of the answers met the objective ({objective}), which wants "
            f"{objective.share:.0%}"
        )
    if done.scenario.stays_flat and done.before and done.after:
        found += [*grown("the replicas", done.before.service, done.after.service)]
        found += [*grown("all processes", done.before.processes, done.after.processes)]
    if not done.answers and done.ended_early is None:
        found.append("nothing was asked")
    return found


def grown(whose: str, before: Scrape | Mapping[str, float] | None, after: Any) -> Iterator[str]:
    """What grew beyond its limit."""
    if before is None or after is None:
        return
    early, late = (seen if isinstance(seen, Mapping) else asdict(seen) for seen in (before, after))
    for name, (times, plus) in GROWTH.items():
        if late.get(name, 0.0) > times * early.get(name, 0.0) + plus:
            yield f"{name} of {whose} grew from {early[name]:g} to {late[name]:g}"
