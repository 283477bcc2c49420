"""``adasd eval --suite FOLDER``: everything in docs/evaluation, in one command that goes on where it was stopped.

Traces and answers are kept in FOLDER/kept. From them, in seconds: ``tables.md`` and a page of HTML per series.
Constants and static lengths come from the development prompts, figures from the test prompts.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from adasd.charts.chart import Point, Points, section
from adasd.charts.page import document
from adasd.config import SpeculationConfig
from adasd.errors import AdasdError
from adasd.evaluate.cells import Summary, summary
from adasd.evaluate.colours import colour
from adasd.evaluate.compared_methods import Method
from adasd.evaluate.evaluation import Evaluation, build
from adasd.evaluate.families.ask import Split
from adasd.evaluate.html import page
from adasd.evaluate.intervals import speed_ratio
from adasd.evaluate.measure import MethodRun
from adasd.evaluate.published import adasd_claims, untested_claims
from adasd.evaluate.traces import Traces
from cluster.evaluation import pages
from cluster.evaluation.agreement import agreement
from cluster.evaluation.exact_series import METHODS, Tested, all_cells, all_circumstances, tested
from cluster.evaluation.lossy_series import (
    REAL,
    SAMPLED,
    LossySeries,
    answered,
    demo_series,
    many_series,
    paces,
    real_series,
)
from cluster.evaluation.traced_pairs import TracedPair, demo_pair, real_pair, traced

CLOCKED = ("static-2", "static-5", "calibrated")
"""Methods whose replayed speed is compared with the clock."""
COST_RATIO = 0.1
"""At which the claims on lossy methods are tested."""


def write_all(folder: Path, real_target: str, commit: str) -> int:
    """Run what is not yet kept, and write all pages, anew after each series; returns the exit status.

    ``real_target``: folder of SmolLM2-135M-Instruct.
    """
    kept = folder / "kept"
    kept.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    made = f"{datetime.now(UTC):%Y-%m-%d}, commit {commit[:7]}"
    try:
        traces = {
            pair.name: (pair, _traces(pair, kept, console)) for pair in (demo_pair(), real_pair(real_target))
        }
        console.print("replaying the traces with every method")
        found = [at for pair, of_pair in traces.values() for at in all_circumstances(pair, of_pair)]
        exact, claims = all_cells(found), tested(found)
        summaries = [summary(name, exact) for name in METHODS]
        (folder / "exact.html").write_text(exact_page(summaries, made), encoding="utf-8")
        runs: dict[str, list[MethodRun]] = {}
        parts = [
            "# All tables",
            f"Written by `adasd eval --suite`; {made}. Read [evaluation.md](../evaluation.md) first.",
            "## Exact methods over all cells",
            pages.summaries(summaries),
            "## Exact methods by pair, temperature and cost: speed over the best static length",
            pages.by_circumstance(exact),
        ]
        for series in (*demo_series(), *real_series(real_target), *many_series()):
            runs[series.name] = _answers(series, kept, console, runs.get(series.plain_of or "", ()))
            report = _report(series, runs[series.name], made)
            parts += [f"## {series.title}", *pages.answers(report)]
            (folder / f"{series.name}.html").write_text(page(report, series.title), encoding="utf-8")
            more = _last_parts(runs, claims, traces[real_pair(real_target).name][1][Split.TEST])
            (folder / "tables.md").write_text("\n\n".join([*parts, *more]) + "\n", encoding="utf-8")
    except AdasdError as error:
        print(f"adasd eval: {error}", file=sys.stderr)
        return 2
    return 0


def _last_parts(
    runs: Mapping[str, Sequence[MethodRun]], exact_claims: Sequence[Tested], traces: Traces
) -> Iterator[str]:
    """Replay against the clock, and the claims, as far as the series have run."""
    if REAL in runs:
        yield "## Replay against the clock"
        yield pages.agreements(agreement(runs[REAL], traces["our draft"], CLOCKED))
    claims = (*_lossy_claims(runs), *exact_claims)
    yield "## Published claims"
    yield pages.claims(claims, untested_claims())
    yield "## The ratios behind them"
    yield pages.claim_ratios(claims)


def _traces(pair: TracedPair, kept: Path, console: Console) -> dict[Split, Any]:
    def say(done: int, total: int) -> None:
        console.print(f"{pair.name}, {split}: {done} of {total} batches traced")

    found = {}
    for split in Split:
        found[split] = traced(pair, pair.questions(split), kept / f"traces-{pair.name}-{split}.jsonl", say)
    return found


def _answers(
    series: LossySeries, kept: Path, console: Console, plain: Sequence[MethodRun]
) -> list[MethodRun]:
    def say(method: Method, temperature: float) -> None:
        console.print(f"{series.name}: {method.name}, T={temperature:g}")

    console.print(f"{series.name}: begins with {series.methods[0][1][0]}")
    return answered(series, kept, say, plain)


def _report(series: LossySeries, runs: Sequence[MethodRun], made: str) -> Evaluation:
    workload, num, seed = series.workload
    date, _, commit = made.partition(", commit ")
    about = {
        "date": date,
        "commit": commit,
        "num_prompts": len(runs[0].answers),
        "options": {
            "target": Path(series.target).name,
            "draft": Path(series.draft).name,
            "draft_noise": series.noise,
            "workload": workload,
            "n": num,
            "seed": seed,
            "max_tokens": series.max_tokens,
            "weights": series.weights,
        },
        "acceptance_of_mode_adaptive": SpeculationConfig().acceptance,
    }
    return build(runs, about)


def _lossy_claims(runs: Mapping[str, Sequence[MethodRun]]) -> list[Tested]:
    """AdaSD's claims, with its sampling (temperature 1), on the useful pairs."""

    def ratios(ours: str, base: str) -> dict[str, Any]:
        return {
            f"{name}, T=1": speed_ratio(*(paces(runs[name], each, 1.0, COST_RATIO) for each in (ours, base)))
            for name in ("demo", SAMPLED)
            if {ours, base} <= {run.method.name for run in runs.get(name, ()) if run.temperature == 1.0}
        }

    return [Tested(claim, ratios(claim.ours, claim.base)) for claim in adasd_claims()]


def exact_page(summaries: Sequence[Summary], made: str) -> str:
    """Exact methods as one picture: the mean over all cells against the worst cell."""
    points = [
        Point(one.method, one.worst, one.mean.value, colour(one.method), one.method == "calibrated")
        for one in summaries
    ]
    chart = Points(
        "Further up: faster on average; further right: safer; 1: the static length that was best on other prompts",
        "worst cell, over the best static length",
        "geometric mean over all cells",
        points,
    )
    return document("adasd eval", "Exact methods over all cells", (made,), section(chart))
