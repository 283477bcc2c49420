"""Every benchmark of one machine in order, each in a process of its own: ``python -m load_tests.benchmarks``.

The figures go to ``<folder>/<benchmark>-<hardware>.json``. The exit status is 1 if any benchmark missed its
goal or failed; the others run all the same.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from load_tests import record

BENCHMARKS: Mapping[str, tuple[str, ...]] = {
    "latency.round_trip": (),
    "latency.hop_latency": (),
    "latency.link_cost": (),
    "latency.pipelining": (),
    "latency.link_latency": (),
    "latency.first_token": (),
    "throughput.single_stream": (),
    "goals.pair_modes": (),
    "throughput.breakdown": (),
    "throughput.decision_price": (),
    "throughput.flip_rate": (),
    "throughput.batch_throughput": (),
    "throughput.service_stream": ("--enlarged",),
    "latency.start_up": (),
}
"""Modules of load_tests and their arguments; arguments without values become part of the file's name."""
BASELINES = Path("load_tests/baselines")
Run = Callable[[Sequence[str]], int]


def run(command: Sequence[str]) -> int:
    """Run in the repository's root; returns the exit status."""
    return subprocess.run(command, cwd=record.ROOT, check=False).returncode


def main(arguments: list[str] | None = None, run: Run = run) -> int:
    """Run all, then report which ones missed their goal."""
    parser = argparse.ArgumentParser(prog="python -m load_tests.benchmarks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--folder", type=Path, default=BASELINES, help=f"where the JSON files go [{BASELINES}]"
    )
    parser.add_argument(
        "--llama-server",
        metavar="PATH",
        help="llama.cpp's server, measured as well [the one on PATH, if any]",
    )
    options = parser.parse_args(arguments)
    folder, llama_server = options.folder, options.llama_server or shutil.which("llama-server")
    (record.ROOT / folder).mkdir(parents=True, exist_ok=True)
    short = []
    for module, given in BENCHMARKS.items():
        name = module.rpartition(".")[2]
        file = folder / f"{name}{''.join(given).replace('--', '_')}-{record.hardware()}.json"
        more = ("--llama-server", llama_server) if llama_server and name == "single_stream" else ()
        print(f"\n--- {name} -> {file}", flush=True)
        if run([sys.executable, "-m", f"load_tests.{module}", *given, *more, "--json", str(file)]):
            short.append(name)
    print(f"\n{len(BENCHMARKS) - len(short)} of {len(BENCHMARKS)} benchmarks reached their goals", end="")
    print(f"; short: {', '.join(short)}" if short else "")
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
