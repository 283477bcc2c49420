"""The header of every benchmark's figures: date, command, hardware and versions."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

ROOT = Path(__file__).resolve().parents[1]
ABSOLUTE = re.compile(r"(?<![^=])/.+")
"""A path that is an argument, or the value of one (``--json=/...``)."""
PACKAGES = ("torch", "transformers", "ray", "grpcio", "uvloop", "scikit-learn")


def circumstances(benchmark: str, arguments: Sequence[str], threads: int | None = None) -> dict[str, Any]:
    """The header for a module of load_tests. Call it before measuring, so that the load average is of other work."""
    return {
        "benchmark": benchmark.rpartition(".")[2],
        "command": command_line(["python", "-m", f"load_tests.{benchmark}"], arguments),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": {
            "cpu": cpu_model(),
            "cores": num_cores(),
            "load_average": [round(load, 2) for load in os.getloadavg()],
            "system": f"{platform.system()} {platform.machine()}",
        },
        "threads": threads,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }


def command_line(command: Sequence[str], arguments: Sequence[str]) -> str:
    """What was typed, for a shell, without folders of this machine: paths count from ROOT, others are names alone."""
    return shlex.join([*command, *(ABSOLUTE.sub(_portable, argument) for argument in arguments)])


def _portable(found: re.Match[str]) -> str:
    path = Path(found[0])
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def commit() -> str | None:
    """Short hash of HEAD, with the suffix ``-dirty`` if tracked files differ; None outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def cpu_model() -> str:
    """The processor's name as the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine_cpu() -> dict[str, float]:
    """Core seconds of the whole machine so far: in use and idle."""
    fields = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    ticks = os.sysconf("SC_CLK_TCK")
    idle = fields[3] + fields[4]
    return {"machine in use": (sum(fields[:8]) - idle) / ticks, "machine idle": idle / ticks}


def version(package: str) -> str | None:
    """The installed version of a package; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def hardware() -> str:
    """Processor and cores as part of a file name: lower case letters, digits and dashes."""
    words = re.sub(r"\((r|tm)\)|@.*$|\bcpu\b|\bprocessor\b", " ", cpu_model().lower())
    return f"{re.sub(r'[^a-z0-9]+', '-', words).strip('-')}-{num_cores()}-cores"


def write(file: Path, header: Mapping[str, Any], figures: Mapping[str, Any]) -> None:
    """Header and figures as one JSON object."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**header, **figures}, indent=2) + "\n", encoding="utf-8")


def console() -> Console:
    """The terminal; wide enough for a table if the output goes to a file."""
    found = Console()
    return found if found.is_terminal else Console(width=120)


def headline(header: Mapping[str, Any]) -> str:
    """The header in one line."""
    machine = header["machine"]
    threads = f" · {header['threads']} thread(s)" if header["threads"] else ""
    return (
        f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_average'][0]:.1f}{threads} · "
        f"commit {header['commit']} · {header['date']}"
    )
