"""A soak in pieces: a file says what was done, and the next piece goes on from there.

A piece has a server of its own unless ``--url`` names one; what a server holds is compared within its piece.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adasd.errors import ConfigError
from load_tests.load.answers import GOOD
from load_tests.load.runner import ScenarioRun, ServerState


@dataclass(frozen=True, slots=True)
class Piece:
    """One run. ``before`` and ``after``: the idle server, in all its processes (resident_mb, open_files, threads,
    tasks of the replicas).
    """

    date: str
    commit: str
    num_requests: int
    num_failed: int
    seconds: float
    before: Mapping[str, float]
    after: Mapping[str, float]
    problems: Sequence[str]


def read(file: Path) -> list[Piece]:
    """The pieces so far; none without the file. ConfigError for another file."""
    if not file.exists():
        return []
    try:
        return [Piece(**piece) for piece in json.loads(file.read_text(encoding="utf-8"))["pieces"]]
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise ConfigError(f"{file} is no record of a soak: {error}") from error


def num_done(pieces: Sequence[Piece]) -> int:
    return sum(piece.num_requests for piece in pieces)


def piece_of(run: ScenarioRun, header: Mapping[str, Any]) -> Piece:
    """The piece of a run, also of one that was interrupted."""
    return Piece(
        date=header["date"],
        commit=header["commit"],
        num_requests=len(run.answers),
        num_failed=sum(answer.outcome not in GOOD for answer in run.answers),
        seconds=round(run.seconds, 1),
        before=_holdings(run.before),
        after=_holdings(run.after),
        problems=run.problems,
    )


def write(file: Path, pieces: Sequence[Piece], total: int) -> None:
    """ConfigError if that cannot be done."""
    record = {"num_requests": num_done(pieces), "of": total, "pieces": [asdict(piece) for piece in pieces]}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror or error}") from error


def _holdings(state: ServerState | None) -> dict[str, float]:
    """Of all processes if they are ours; the tasks are known of the replicas alone."""
    if state is None:
        return {}
    of_replicas = {} if state.service is None else asdict(state.service)
    found = dict(
        state.processes
        or {name: of_replicas.get(name, 0.0) for name in ("resident_mb", "open_files", "threads")}
    )
    return {**found, "tasks": of_replicas.get("tasks", 0.0)}
