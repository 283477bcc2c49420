"""``adasd bench``: run a load test by name against a demo server or --url."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from adasd.errors import AdasdError, ConfigError
from cluster.simulation.objective import Objective
from load_tests import record
from load_tests.faults import chaos
from load_tests.faults.local_cluster import local_cluster
from load_tests.load import pieces, result_file
from load_tests.load.compare import compared
from load_tests.load.page import page
from load_tests.load.progress import Progress
from load_tests.load.result_table import show
from load_tests.load.runner import ScenarioRun, run
from load_tests.load.scenarios import SCENARIOS, Scenario, named
from load_tests.load.server_under_test import Server, demo_server, pair_of, running_server
from load_tests.load.stage import Options

RESULTS = Path("runs/bench")
DOORS = ("http", "grpc")
INTERRUPTED = 130


def main(argv: Sequence[str], console: Console | None = None) -> int:
    """Returns 0: passed; 1: a check failed, or the server died; 2: the command is invalid; 130: interrupted."""
    arguments = parser().parse_args(argv)
    console = console or record.console()
    try:
        if arguments.compare:
            console.print(compared(*arguments.compare))
            return 0
        if arguments.list or arguments.scenario is None:
            for scenario in SCENARIOS.values():
                console.print(f"{scenario.name:<14}{scenario.about}", soft_wrap=True, highlight=False)
            return 0 if arguments.list else 2
        scenario, options = named(arguments.scenario), options_of(arguments)
        before = pieces.read(arguments.resume) if arguments.resume else []
        if before:
            total, done = options.num_requests or scenario.num_requests, pieces.num_done(before)
            if done >= total:
                console.print(f"{arguments.resume} has {done} of {total} requests already")
                return 0
            options = replace(options, num_requests=total - done, seed=options.seed + len(before))
        with server_of(scenario, arguments, console) as server:
            result, run = play(scenario, server, options, argv, console)
        if arguments.resume:
            now = [*before, pieces.piece_of(run, result)]
            total = arguments.requests or scenario.num_requests
            pieces.write(arguments.resume, now, total)
            console.print(f"{arguments.resume}: {pieces.num_done(now)} of {total} requests", highlight=False)
        keep(result, *files_of(scenario, arguments), console)
        return status(result)
    except ConfigError as error:
        return complain(error, 2)
    except AdasdError as error:
        return complain(error, 1)
    except KeyboardInterrupt:
        print("adasd bench: interrupted before anything was measured", file=sys.stderr)
        return INTERRUPTED


def complain(error: AdasdError, exit_status: int) -> int:
    for sentence in str(error).splitlines():
        print(f"adasd bench: {sentence}", file=sys.stderr)
    return exit_status


def status(result: dict[str, Any]) -> int:
    """The exit status for a result."""
    if result["was_interrupted"]:
        return INTERRUPTED
    return 1 if result["problems"] or result["ended_early"] else 0


# --------------------------------------------------------------------------- one run


def play(
    scenario: Scenario, server: Server, options: Options, argv: Sequence[str], console: Console
) -> tuple[dict[str, Any], ScenarioRun]:
    """Run and print; returns the result as it is written, and the run."""
    header = record.circumstances("bench", argv)
    header |= {"command": record.command_line(["adasd", "bench"], argv), "pair": pair_of(server)}
    console.print(record.headline(header), highlight=False)
    with Progress(console) as progress:
        done = asyncio.run(_until_told_to_stop(run(scenario, server, options, progress.show)))
    result = result_file.as_json(done, header) | {"was_interrupted": done.was_interrupted}
    show(result, console)
    return result, done


async def _until_told_to_stop(running: Any) -> ScenarioRun:
    """SIGTERM ends a run like Ctrl-C: the measurements are kept."""
    task: asyncio.Task[ScenarioRun] = asyncio.ensure_future(running)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def keep(result: dict[str, Any], json_file: Path, html_file: Path, console: Console) -> None:
    """Write both files, even for an interrupted run."""
    result_file.write(json_file, result)
    try:
        html_file.parent.mkdir(parents=True, exist_ok=True)
        html_file.write_text(page(result), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {html_file}: {error.strerror or error}") from error
    console.print(f"{json_file}  {html_file}", soft_wrap=True, highlight=False)


@contextmanager
def server_of(scenario: Scenario, arguments: argparse.Namespace, console: Console) -> Iterator[Server]:
    """The server of ``--url``, or one of our own."""
    if arguments.url:
        if scenario.under_fire:
            raise ConfigError(
                f"{scenario.name} kills processes, so it takes a cluster of its own and no --url"
            )
        yield running_server(
            arguments.url, arguments.grpc, arguments.api_key or os.environ.get("ADASD_API_KEY")
        )
        return
    if scenario.under_fire:
        console.print("starting a cluster of four nodes with the demo pair on this machine", highlight=False)
        with local_cluster(chaos.NODES, chaos.settings()) as made:
            yield Server(made.url, f"127.0.0.1:{made.grpc_port}", processes=made.processes, cluster=made)
        return
    console.print("starting a demo server on this machine", highlight=False)
    with demo_server(settings_of(arguments.set)) as server:
        yield server


def settings_of(words: Sequence[str]) -> dict[str, Any]:
    """``target.num_slots=8`` as nested settings; ConfigError."""
    found: dict[str, Any] = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name:
            raise ConfigError(f"--set wants NAME=VALUE, not {word!r}")
        *path, last = name.split(".")
        section = found
        for part in path:
            section = section.setdefault(part, {})
        section[last] = yaml.safe_load(value)
    return found


def files_of(scenario: Scenario, arguments: argparse.Namespace) -> tuple[Path, Path]:
    """Paths of the result files."""
    stem = f"{scenario.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    json_file = arguments.json or RESULTS / f"{stem}.json"
    return json_file, arguments.html or json_file.with_suffix(".html")


# --------------------------------------------------------------------------- options


def options_of(arguments: argparse.Namespace) -> Options:
    """The scenario's options; ConfigError."""
    doors = tuple(filter(None, arguments.doors.split(",")))
    if unknown := [door for door in doors if door not in DOORS] or (not doors and ["nothing"]):
        raise ConfigError(f"--doors takes http and grpc, not {unknown[0]}")
    if arguments.url and doors == ("grpc",) and not arguments.grpc:
        raise ConfigError("--doors grpc needs the address of that door: --grpc HOST:PORT")
    return Options(
        rate_per_s=arguments.rate,
        seconds=arguments.seconds,
        num_requests=arguments.requests,
        num_clients=arguments.clients,
        max_tokens=arguments.max_tokens,
        trace=arguments.trace,
        doors=doors,
        objective=Objective.parse(arguments.objective),
        seed=arguments.seed,
    )


def positive(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
        return value

    read.__name__ = "number"
    return read


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="adasd bench",
        description="Load tests by name. Without --url they start a demo server of their own.",
        allow_abbrev=False,
    )
    add = made.add_argument
    number, whole = positive(float), positive(int)
    add("scenario", nargs="?", metavar="SCENARIO", help=", ".join(SCENARIOS))
    add("--list", action="store_true", help="list the scenarios and what they do")
    add(
        "--compare",
        nargs=2,
        type=Path,
        metavar=("A.json", "B.json"),
        help="compare two results: ratios with 95 %% intervals",
    )
    add("--url", help="a running server instead, for example http://127.0.0.1:8000")
    add("--grpc", metavar="HOST:PORT", help="gRPC address of that server; without it only HTTP is used")
    add("--api-key", metavar="KEY", help="API key of that server [$ADASD_API_KEY]")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the demo server")
    add("--rate", type=number, metavar="R", help="requests per second (ramp: the first rate)")
    add("--seconds", type=number, metavar="S", help="seconds of load (ramp: of each step)")
    add("--requests", type=whole, metavar="N", help="number of requests (smoke, chaos, soak)")
    add(
        "--resume",
        type=Path,
        metavar="FILE",
        help="soak: go on where FILE says, until --requests are done in all; write what was done there",
    )
    add("--clients", type=whole, metavar="N", help="concurrent clients; size of a burst")
    add("--max-tokens", type=whole, metavar="N", help="tokens per answer (soak)")
    add("--trace", type=Path, metavar="FILE", help="file of recorded arrival times: seconds, one per line")
    add("--doors", default="http,grpc", metavar="A,B", help="http, grpc, or both in turn [http,grpc]")
    add(
        "--objective",
        default="",
        metavar="O",
        help="ttft=MS,tpot=MS,share=X: what a good answer is [ttft=500,tpot=50,share=0.95]",
    )
    add("--seed", type=int, default=0, help="seed of arrivals and choices [0]")
    add("--json", type=Path, metavar="FILE", help=f"write the result here [{RESULTS}/SCENARIO-TIME.json]")
    add("--html", type=Path, metavar="FILE", help="write the page with plots here [beside the JSON file]")
    return made
