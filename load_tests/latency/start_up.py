"""Seconds from ``adasd serve`` on an installed environment until ``/ready`` says yes.

    python -m load_tests.latency.start_up [--runs 3] [--target PATH] [--draft PATH] [--json FILE]

Each run is a process of its own on free ports, stopped as Ctrl-C would. The goal is a median of at most 45 s
on 2 cores; the exit status is 1 if it is missed.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import httpx

from load_tests import record
from load_tests.demo_pair import positive
from load_tests.free_ports import free_port

GOAL_S = 45.0
POLL_S = 0.1
STOP_TIMEOUT_S = 60.0
SERVE = (sys.executable, "-m", "cluster.cli", "serve")


class StartUpFailed(Exception):
    """The server exited or was not ready in time; the message contains the end of its output."""


@dataclass(frozen=True)
class StartUp:
    """Times of one run in seconds."""

    ready_s: float  # from starting the process to the first 200 of /ready
    stop_s: float  # from the signal to the end of the process


def start_once(command: Sequence[str], port: int, timeout_s: float) -> StartUp:
    """Start, wait for ``/ready``, stop; raises StartUpFailed. Leaves no process behind on any path."""
    with tempfile.TemporaryFile() as output:
        began_s = time.monotonic()
        with process_group(command, output) as server:
            wait_until_ready(server, port, began_s + timeout_s, output)
            ready_s = time.monotonic() - began_s
            stopping_s = time.monotonic()
            os.killpg(server.pid, signal.SIGINT)  # as a terminal does
            try:
                status = server.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                raise StartUpFailed(f"still running {STOP_TIMEOUT_S:g} s after Ctrl-C") from None
            if status:
                raise StartUpFailed(f"status {status} after Ctrl-C:\n{tail(output)}")
            return StartUp(ready_s, time.monotonic() - stopping_s)


@contextmanager
def process_group(command: Sequence[str], output: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """A process in its own group, in the repository's root; the whole group is killed at the end."""
    process = subprocess.Popen(
        command,
        cwd=record.ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith(("ADASD_", "RAY_"))},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):  # the whole group has ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until_ready(
    server: subprocess.Popen[bytes], port: int, deadline_s: float, output: IO[bytes]
) -> None:
    """Poll ``/ready`` until it answers 200."""
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=5.0) as client:
        while time.monotonic() < deadline_s:
            if server.poll() is not None:
                raise StartUpFailed(f"ended with status {server.returncode}:\n{tail(output)}")
            try:
                if client.get("/ready").status_code == 200:
                    return
            except httpx.HTTPError:
                pass  # the server does not listen yet
            time.sleep(POLL_S)
    raise StartUpFailed(f"not ready in time:\n{tail(output)}")


def tail(output: IO[bytes], num_bytes: int = 2000) -> str:
    """The end of the server's output."""
    output.seek(0, os.SEEK_END)
    output.seek(max(0, output.tell() - num_bytes))
    return output.read().decode(errors="replace").strip()


def main(arguments: list[str] | None = None, serve: Sequence[str] = SERVE) -> int:
    """Measure, print, write; 1 if the goal is missed or the server does not start."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    header = record.circumstances("latency.start_up", arguments)
    console = record.console()
    console.print(record.headline(header), highlight=False)
    pair = [
        word for name in ("target", "draft") if (path := vars(options)[name]) for word in (f"--{name}", path)
    ]
    runs = []
    for number in range(1, options.runs + 1):
        port, grpc_port = free_port(), free_port()
        command = [*serve, "--port", str(port), "--grpc-port", str(grpc_port), *pair]
        try:
            runs.append(start_once(command, port, options.timeout_s))
        except StartUpFailed as error:
            console.print(f"[red]run {number}:[/red] {error}", highlight=False)
            return 1
        console.print(
            f"run {number}: ready after {runs[-1].ready_s:.1f} s, stopped in {runs[-1].stop_s:.1f} s"
        )
    median_s = statistics.median(run.ready_s for run in runs)
    reached = median_s <= GOAL_S
    console.print(
        f"median {median_s:.1f} s; goal: at most {GOAL_S:g} s on 2 cores: {'reached' if reached else 'missed'}"
    )
    if options.json:
        figures = {"goal_s": GOAL_S, "median_ready_s": median_s, "runs": [asdict(run) for run in runs]}
        record.write(options.json, header, figures)
    return 0 if reached else 1


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m load_tests.latency.start_up", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--runs", type=positive, default=3, help="starts [3]")
    parser.add_argument("--target", help="folder or Hugging Face id [the demo pair]")
    parser.add_argument("--draft", help="folder or Hugging Face id [the demo pair]")
    parser.add_argument("--timeout-s", type=float, default=600.0, help="seconds for one start [600]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
