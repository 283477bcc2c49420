"""A simulated run as table, JSON and a self-contained HTML page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.table import Table

from adasd.charts.chart import Line, Lines, section
from adasd.charts.page import document, grid
from adasd.errors import ConfigError
from cluster.simulation.objective import Objective
from cluster.simulation.outcome import Figures, Outcome

MAX_POINTS = 600
"""Points of a timeline in the file and on the page; longer ones are thinned."""
MAX_ROWS = 24


def timeline(outcome: Outcome) -> dict[str, list[float | None]]:
    """The state over time, thinned to MAX_POINTS, with tokens per second and first tokens between the points."""
    every = -(-len(outcome.samples) // MAX_POINTS)
    samples = outcome.samples[::every]
    edges = [one.at_s for one in samples]
    first = outcome.first_token_over_time(edges) if len(edges) > 1 else []
    rates = [
        max(0.0, late.tokens - early.tokens) / (late.at_s - early.at_s) for early, late in pairwise(samples)
    ]
    found: dict[str, list[float | None]] = {
        "seconds": list(edges),
        "targets": [float(one.targets) for one in samples],
        "drafts": [float(one.drafts) for one in samples],
        "wanted_targets": [float(one.wanted_targets) for one in samples],
        "wanted_drafts": [float(one.wanted_drafts) for one in samples],
        "running": [float(one.running) for one in samples],
        "waiting": [float(one.waiting) for one in samples],
    }
    return {
        **found,
        "tokens_per_s": [0.0, *rates],
        "first_token_ms": [None, *first] if first else [None] * len(edges),
    }


def result(outcome: Outcome, objective: Objective, about: Mapping[str, Any]) -> dict[str, Any]:
    """Everything as plain values for JSON."""
    figures = outcome.figures(objective)
    return {
        **about,
        "objective": asdict(objective),
        "figures": asdict(figures),
        "notes": outcome.notes,
        "timeline": timeline(outcome),
    }


def sentences(found: Mapping[str, Any]) -> list[str]:
    """The outcome in words."""
    figures = Figures(**found["figures"])
    first, token = figures.first_token_ms, figures.per_token_ms
    held = "held" if figures.attainment >= found["objective"]["share"] else "missed"
    goal = str(Objective(**found["objective"]))
    refused = f", {figures.num_refused} refused or without a slot in time" if figures.num_refused else ""
    return [
        f"{figures.num_done} answers{refused}; {figures.answers_per_s:.3g} per second, "
        f"{figures.tokens_per_s:.4g} tokens per second",
        f"first token {first[0]:.0f} ms (90 %: {first[1]:.0f}, 99 %: {first[2]:.0f}); per token {token[0]:.2f} ms "
        f"(90 %: {token[1]:.2f}, 99 %: {token[2]:.2f})",
        f"objective {goal} {held}: {figures.attainment:.1%} of the requests met it",
        *(
            [
                f"the orchestrators' CPU: {found['notes']['orchestrator_cores']:.1f} cores; each replica has one"
            ]
            if "orchestrator_cores" in found["notes"]
            else []
        ),
    ]


def table(found: Mapping[str, Any]) -> Table:
    """The state over time, a few dozen rows."""
    line = found["timeline"]
    made = Table(title="Over time", title_justify="left")
    for name in ("second", "targets", "drafts", "running", "waiting", "tokens/s", "first token (ms)"):
        made.add_column(name, justify="right")
    every = max(1, -(-len(line["seconds"]) // MAX_ROWS))
    for at in range(0, len(line["seconds"]), every):
        first = [value for value in line["first_token_ms"][at : at + every] if value is not None]
        rates = line["tokens_per_s"][at : at + every]
        counts = (line[name][at] for name in ("targets", "drafts", "running", "waiting"))
        made.add_row(
            f"{line['seconds'][at]:.0f}",
            *(f"{value:.0f}" for value in counts),
            f"{sum(rates) / len(rates):.0f}",
            f"{sum(first) / len(first):.0f}" if first else "-",
        )
    return made


def page(found: Mapping[str, Any]) -> str:
    """The page; it needs no other file."""
    line = found["timeline"]
    charts = (
        ("replicas", {"targets": "targets", "drafts": "drafts", "wanted targets": "wanted_targets"}),
        ("requests", {"running": "running", "waiting": "waiting"}),
        ("tokens per second", {"all answers": "tokens_per_s"}),
        ("first token (ms)", {"median": "first_token_ms"}),
    )
    drawn = [
        section(
            Lines(title, "second", line["seconds"], [Line(name, line[key]) for name, key in names.items()])
        )
        for title, names in charts
        if len(line["seconds"]) > 1
    ]
    about = {key: value for key, value in found.items() if key not in ("timeline", "figures", "notes")}
    return document(
        "adasd simulate",
        "Simulated deployment",
        made(found),
        "".join(f"<p>{escape(text)}</p>" for text in sentences(found))
        + f"{grid(drawn)}<h2>Circumstances</h2><pre>{escape(json.dumps(about, indent=1))}</pre>",
    )


def made(found: Mapping[str, Any]) -> tuple[str, ...]:
    """Where the figures come from: cards, requests, date, commit, command."""
    draft = found["draft"]
    return (
        f"target {found['target']['card']}, " + (f"draft {draft['card']}" if draft else "no draft"),
        f"{found['requests']} requests" if "requests" in found else "",
        f"modelled {found['date']}",
        f"commit {found['commit'][:7]}",
        " ".join(found["command"]),
    )


def check_writable(*files: Path | None) -> None:
    """ConfigError if a file could not be written at the end, so that no work is lost."""
    for file in files:
        if file is not None and not file.resolve().parent.is_dir():
            raise ConfigError(f"{file} cannot be written: there is no folder {file.resolve().parent}")
        if file is not None and file.is_dir():
            raise ConfigError(f"{file} cannot be written: it is a folder")


def write(file: Path, text: str) -> None:
    """All of it or nothing. ConfigError."""
    new = file.with_name(file.name + ".new")
    try:
        new.write_text(text, encoding="utf-8")
        new.replace(file)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise ConfigError(f"cannot write {file}: {error.strerror or error}") from error
