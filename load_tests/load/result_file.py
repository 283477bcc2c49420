"""A run as JSON: its figures, and the answers as columns for ``--compare``."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from adasd.errors import ConfigError
from load_tests.load.answers import GOOD, Reply
from load_tests.load.generator import bottleneck
from load_tests.load.load_figures import by_kind, figures, timeline
from load_tests.load.runner import ScenarioRun

MAX_ANSWERS = 2000
"""Answers that the file keeps one by one; if there are more, a sample of them."""
MAX_ERRORS = 5
FORMAT = 1


def as_json(run: ScenarioRun, header: Mapping[str, Any]) -> dict[str, Any]:
    """All measurements."""
    objective = run.options.objective
    whole = figures("all", run.answers, run.seconds, objective)
    return {
        **header,
        "format": FORMAT,
        "scenario": run.scenario.name,
        "about": run.scenario.about,
        "objective": asdict(objective),
        "ended_early": run.ended_early,
        "problems": run.problems,
        "notes": run.notes,
        "found": run.found,
        "figures": asdict(whole),
        "kinds": [
            asdict(figures(kind, answers, run.seconds, objective))
            for kind, answers in by_kind(run.answers).items()
        ],
        "phases": phases(run),
        "generator": {
            **asdict(run.strain),
            "bottleneck": bottleneck(run.strain, (whole.first_token_ms.p50 or 0.0) / 1e3),
        },
        "server": {name: asdict(seen) if seen else None for name, seen in ends(run).items()},
        "faults": [asdict(injection) for injection in run.injections],
        "timeline": asdict(timeline(run.answers, run.samples, run.ended_s)),
        "errors": errors(run.answers),
        "answers": columns(run.answers),
    }


def errors(answers: list[Reply]) -> list[dict[str, Any]]:
    """What the most frequent failures said, and how many answers ended so."""
    said = Counter(answer.error for answer in answers if answer.outcome not in GOOD and answer.error)
    return [{"what": what, "num_answers": num} for what, num in said.most_common(MAX_ERRORS)]


def phases(run: ScenarioRun) -> list[dict[str, Any]]:
    """Each phase with its load and its results."""
    found = []
    for phase in run.phases:
        own = [answer for answer in run.answers if answer.phase == phase.name]
        ended_s = max([phase.ended_s, *(answer.ended_s for answer in own)])
        found.append(
            {
                "began_s": round(phase.began_s, 3),
                "offered_per_s": phase.offered_per_s,
                "num_clients": phase.num_clients,
                **asdict(figures(phase.name, own, ended_s - phase.began_s, run.options.objective)),
            }
        )
    return found


def ends(run: ScenarioRun) -> dict[str, Any]:
    """The server before and after."""
    return {"before": run.before, "after": run.after}


def columns(answers: list[Reply]) -> dict[str, list[Any]]:
    """One list per property, seconds rounded to 0.1 ms; a random sample if there are too many."""
    kept = answers
    if len(answers) > MAX_ANSWERS:
        kept = sorted(random.Random(0).sample(answers, MAX_ANSWERS), key=lambda answer: answer.intended_s)

    def rounded(value: float | None) -> float | None:
        return None if value is None else round(value, 4)

    return {
        "kind": [a.ask.kind for a in kept],
        "door": [a.door for a in kept],
        "outcome": [a.outcome.value for a in kept],
        "intended_s": [rounded(a.intended_s) for a in kept],
        "first_token_s": [rounded(a.first_token_s) for a in kept],
        "per_token_s": [None if a.per_token_s is None else round(a.per_token_s, 6) for a in kept],
        "total_s": [rounded(a.total_s) for a in kept],
        "num_tokens": [a.num_tokens for a in kept],
    }


def write(file: Path, result: Mapping[str, Any]) -> None:
    """Writes each column on one line, so that the file stays readable; ConfigError if it cannot be written."""
    lists = {name: result[name] for name in ("timeline", "answers")}
    marks = {name: {key: f"@{name}.{key}@" for key in values} for name, values in lists.items()}
    text = json.dumps({**result, **marks}, indent=1)
    for name, values in lists.items():
        for key, column in values.items():
            text = text.replace(f'"@{name}.{key}@"', json.dumps(column))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror or error}") from error


def read(file: Path) -> dict[str, Any]:
    """Reads a file written by ``write``; ConfigError for anything else."""
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {file}: {error}") from error
    except ValueError as error:
        raise ConfigError(f"{file} is no JSON: {error}") from error
    if not isinstance(result, dict) or result.get("format") != FORMAT or "answers" not in result:
        raise ConfigError(f"{file} is no result of adasd bench (format {FORMAT})")
    return result
