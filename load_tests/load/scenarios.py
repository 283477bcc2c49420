"""The scenarios by name. Each is a few lines: its load, and its additional checks."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from difflib import get_close_matches

import numpy as np

from adasd.errors import ConfigError
from adasd.requests import Mode
from cluster.simulation.arrivals import bursts, poisson, read_trace
from load_tests.load import damage, request_mix
from load_tests.load.answers import Ask
from load_tests.load.goodput import attainment, is_held
from load_tests.load.knee import Knee, find_knee
from load_tests.load.overload import AT_KNEE, HEALTH_WITHIN_S, OVERLOAD, asking_health, judge, p99
from load_tests.load.stage import Stage

MODES = (Mode.OFF, Mode.EXACT, Mode.ADAPTIVE)
SLOW_READ_S = 1.0
LARGE_EVERY_S, NUM_LARGE, LARGE_CHARS = 5.0, 8, 3_500_000
PAUSE_WITHIN_S = 0.2
SOAK_TOKENS = 8
SOAK_REQUESTS = 20_000
FUZZ_REQUESTS = 10_000


@dataclass(frozen=True, slots=True)
class Scenario:
    """A named load. ``judge_objective``: missing the objective fails the run."""

    name: str
    about: str
    play: Callable[[Stage], Awaitable[None]]
    judge_objective: bool = False
    under_fire: bool = False  # kills replicas during the load, on a cluster of its own
    num_requests: int = 0  # unless the options say otherwise; 0: as many as fit into its seconds
    warm_up_share: float = 0.0  # share of these before the first snapshot of the server
    stays_flat: bool = False  # memory, files, threads and tasks must not grow between the two snapshots


async def smoke(stage: Stage) -> None:
    """A few requests in every mode through every door."""
    num_requests = stage.options.num_requests or 24
    await stage.generator.closed_loop(
        "smoke",
        stage.options.num_clients or 2,
        request_mix.whole(modes=MODES, num_distinct=8),
        num_requests=num_requests,
    )


async def steady(stage: Stage) -> None:
    """Independent users at a rate below the knee (or a recorded trace)."""
    await _open(stage, "steady", 6.0, 60.0, request_mix.whole())


async def ramp(stage: Stage) -> None:
    """Doubles the rate until the objective is missed, then closes in on the highest rate that holds it."""
    knee = await _knee(stage, stage.options.rate_per_s or 4.0, stage.options.seconds or 10.0)
    if knee.rate_per_s is not None:
        below = [a for a in stage.generator.answers if float(a.phase.removesuffix("/s")) <= knee.rate_per_s]
        stage.expect_no_failure("requests below the knee", below)
    else:
        stage.problems.append("not even the lowest rate held the objective")


async def burst(stage: Stage) -> None:
    """A quiet stream, and every ten seconds more requests at once than there are slots."""
    seconds, rate, size = (
        stage.options.seconds or 60.0,
        stage.options.rate_per_s or 2.0,
        stage.options.num_clients or 34,
    )
    times_s = bursts(rate, size, 10.0, seconds, stage.chance()).tolist()
    await stage.generator.open_loop("burst", times_s, request_mix.whole(), rate + size / 10.0)
    await stage.settle()
    stage.expect_no_failure("requests", stage.of("burst"))


async def overload(stage: Stage) -> None:
    """Ten times the knee (--rate, or looked for): every request has an answer, refusals and /health come at once."""
    rate_per_s, seconds = stage.options.rate_per_s, stage.options.seconds or 20.0
    if rate_per_s is None:
        rate_per_s = (await _knee(stage, 8.0, seconds / 2)).rate_per_s
    if rate_per_s is None:
        stage.problems.append("not even the lowest rate held the objective")
        return
    for name, factor in ((AT_KNEE, 1.0), (OVERLOAD, 10.0)):
        times_s = poisson(factor * rate_per_s, seconds, stage.chance()).tolist()
        async with asking_health(stage.server.url) as health_s:
            await stage.generator.open_loop(name, times_s, request_mix.whole(), factor * rate_per_s)
        await stage.settle()
    share = attainment(stage.options.objective, stage.of(AT_KNEE))
    judged = judge(stage.of(AT_KNEE), stage.of(OVERLOAD), health_s)
    stage.found["overload"] = {"rate_per_s": rate_per_s, "attainment_at_knee": share, **asdict(judged)}
    if share < stage.options.objective.share:
        stage.problems.append(
            f"{rate_per_s:.3g} requests per second are beyond the knee: {share:.0%} of the answers met the objective"
        )
    stage.notes.append(str(judged))
    stage.problems.extend(judged.problems())


async def streams(stage: Stage) -> None:
    """500 clients (--clients) with an open stream each, read as slowly as text is; /health still answers at once."""
    num_clients, seconds = stage.options.num_clients or 500, stage.options.seconds or 30.0
    asks = request_mix.slow_readers(SLOW_READ_S)
    async with asking_health(stage.server.url) as health_s:
        await stage.generator.closed_loop("streams", num_clients, asks, seconds)
    await stage.settle()
    stage.expect_no_failure("requests", stage.of("streams"))
    health_p99_s = p99(health_s) or 0.0
    stage.found["health_p99_s"] = health_p99_s
    stage.notes.append(f"{num_clients} clients: /health {1e3 * health_p99_s:.0f} ms p99 of {len(health_s)}")
    if health_p99_s > HEALTH_WITHIN_S:
        stage.problems.append(f"/health took {1e3 * health_p99_s:.0f} ms (p99), the limit is 100 ms")


async def long_prompts(stage: Stage) -> None:
    """Long conversations among short questions, which must not wait for them."""
    asks = request_mix.one_in(8, request_mix.long_prompts(16), request_mix.whole("short"))
    await _open(stage, "long-prompts", 4.0, 45.0, asks)


async def large_prompts(stage: Stage) -> None:
    """Every five seconds eight prompts of 3.5 MB, which are refused; running streams do not pause for them."""
    seconds, num_clients = stage.options.seconds or 30.0, stage.options.num_clients or 4
    streaming = stage.generator.closed_loop("streams", num_clients, request_mix.whole(), seconds)
    times_s = np.repeat(np.arange(LARGE_EVERY_S / 2, seconds, LARGE_EVERY_S), NUM_LARGE).tolist()
    refused = stage.generator.open_loop(
        "large", times_s, request_mix.large(LARGE_CHARS), NUM_LARGE / LARGE_EVERY_S
    )
    await asyncio.gather(streaming, refused)
    await stage.settle()
    stage.expect_no_failure("streams", stage.of("streams"))
    stage.expect_no_failure("large prompts", stage.of("large"))
    pause_s = max(
        (float(pause) for reply in stage.of("streams") for pause in np.diff(reply.chunks_s)), default=0.0
    )
    stage.found["longest_pause_s"] = pause_s
    stage.notes.append(
        f"{len(times_s)} large prompts: the longest pause of a stream was {1e3 * pause_s:.0f} ms"
    )
    if pause_s > PAUSE_WITHIN_S:
        stage.problems.append(f"a stream paused for {1e3 * pause_s:.0f} ms, the limit is 200 ms")


async def mixed(stage: Stage) -> None:
    """The modes off, exact and adaptive side by side on the same questions."""
    await _open(stage, "mixed", 6.0, 60.0, request_mix.whole(modes=MODES))


async def cancellations(stage: Stage) -> None:
    """Every other client leaves in the middle; its slots are free at once."""
    await _open(stage, "cancellations", 8.0, 45.0, request_mix.leaving(stage.options.seed))


async def slow_readers(stage: Stage) -> None:
    """Clients that hardly read, which must not slow those who do."""
    asks = request_mix.one_in(3, request_mix.slow_readers(0.3), request_mix.whole())
    await _open(stage, "slow-readers", 4.0, 45.0, asks)


async def malformed(stage: Stage) -> None:
    """Wrong requests among right ones: each is refused, none disturbs."""
    await _open(
        stage, "malformed", 8.0, 30.0, request_mix.alternate(request_mix.malformed(), request_mix.whole())
    )


async def fuzz(stage: Stage) -> None:
    """Thousands of damaged requests to every route: each has an answer, none is a fault of the server."""
    num_requests = stage.options.num_requests or FUZZ_REQUESTS
    asks = damage.requests(stage.options.seed)
    await stage.generator.closed_loop("fuzz", stage.options.num_clients or 8, asks, num_requests=num_requests)
    stage.expect_no_failure("requests", stage.of("fuzz"))
    outcomes = Counter(answer.outcome.value for answer in stage.of("fuzz"))
    stage.notes.append(", ".join(f"{number} {outcome}" for outcome, number in sorted(outcomes.items())))


async def chaos(stage: Stage) -> None:
    """Replicas, nodes and the controller are killed under load; nobody notices."""
    num_clients, num_requests = stage.options.num_clients or 12, stage.options.num_requests
    seconds = None if num_requests else stage.options.seconds or 60.0
    await stage.generator.closed_loop(
        "chaos", num_clients, request_mix.whole(max_tokens=96), seconds, num_requests
    )
    await stage.settle(120.0)
    stage.expect_no_failure("requests", stage.of("chaos"))


async def soak(stage: Stage) -> None:
    """Tens of thousands of short requests; in the end the service holds what it held at the start."""
    options = stage.options
    num_requests = options.num_requests or SOAK_REQUESTS
    asks = request_mix.short(options.max_tokens or SOAK_TOKENS)
    if options.rate_per_s is None:
        await stage.generator.closed_loop(
            "soak", options.num_clients or 16, asks, options.seconds, num_requests
        )
    else:
        seconds = options.seconds or 2 * num_requests / options.rate_per_s
        times_s = poisson(options.rate_per_s, seconds, stage.chance()).tolist()[:num_requests]
        await stage.generator.open_loop("soak", times_s, asks, options.rate_per_s)
        await stage.settle()
    stage.expect_no_failure("requests", stage.of("soak"))


async def _knee(stage: Stage, first_per_s: float, seconds: float) -> Knee:
    """The highest rate that holds the objective, tried from ``first_per_s`` on for ``seconds`` each."""

    async def holds(rate_per_s: float) -> bool:
        name = f"{rate_per_s:.3g}/s"
        times_s = poisson(rate_per_s, seconds, stage.chance()).tolist()
        await stage.generator.open_loop(name, times_s, request_mix.whole(), rate_per_s)
        await stage.settle()
        return is_held(stage.options.objective, stage.of(name))

    knee = await find_knee(holds, first_per_s)
    stage.found["knee_per_s"] = knee.rate_per_s
    stage.found["saturated"] = knee.is_bracketed
    stage.notes.append(str(knee))
    return knee


async def _open(stage: Stage, name: str, rate_per_s: float, seconds: float, asks: Iterator[Ask]) -> None:
    """An open loop with the options' rate, duration or trace; no request may fail."""
    options = stage.options
    rate_per_s, seconds = options.rate_per_s or rate_per_s, options.seconds or seconds
    times_s = poisson(rate_per_s, seconds, stage.chance()).tolist()
    if options.trace is not None:
        times_s = read_trace(options.trace).times_s.tolist()
        rate_per_s = len(times_s) / max(1e-9, times_s[-1])
    await stage.generator.open_loop(name, times_s, asks, rate_per_s)
    await stage.settle()
    stage.expect_no_failure("requests", stage.of(name))


def _about(play: Callable[[Stage], Awaitable[None]]) -> str:
    return (play.__doc__ or "").strip()


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("smoke", _about(smoke), smoke),
        Scenario("steady", _about(steady), steady, judge_objective=True),
        Scenario("ramp", _about(ramp), ramp),
        Scenario("burst", _about(burst), burst),
        Scenario("overload", _about(overload), overload),
        Scenario("streams", _about(streams), streams),
        Scenario("long-prompts", _about(long_prompts), long_prompts),
        Scenario("large-prompts", _about(large_prompts), large_prompts),
        Scenario("mixed", _about(mixed), mixed, judge_objective=True),
        Scenario("cancellations", _about(cancellations), cancellations),
        Scenario("slow-readers", _about(slow_readers), slow_readers),
        Scenario("malformed", _about(malformed), malformed),
        Scenario("fuzz", _about(fuzz), fuzz, num_requests=FUZZ_REQUESTS, warm_up_share=0.1, stays_flat=True),
        Scenario("chaos", _about(chaos), chaos, under_fire=True),
        Scenario("soak", _about(soak), soak, num_requests=SOAK_REQUESTS, warm_up_share=0.05, stays_flat=True),
    )
}


def named(name: str) -> Scenario:
    """ConfigError with the list, and the nearest name, for an unknown name."""
    if name in SCENARIOS:
        return SCENARIOS[name]
    near = get_close_matches(name, SCENARIOS, 1)
    meant = f"did you mean {near[0]}? " if near else ""
    raise ConfigError(f"there is no scenario {name!r}; {meant}known: {', '.join(SCENARIOS)}")
