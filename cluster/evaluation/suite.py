"""``adasd eval --suite FOLDER``: every series in docs/evaluation.md, in one run on the demo pair.

Each series is one ``adasd eval``, listed here by its options, so that it can be repeated by hand. Output: NAME.json,
NAME.html and, for the document, tables.md.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from adasd.errors import AdasdError
from adasd.evaluate.evaluation import Evaluation
from adasd.evaluate.html import page
from adasd.evaluate.method_figures import COST_RATIOS, MethodFigures
from adasd.evaluate.tables import known
from cluster.data import DEMO

CHOSEN = (
    "static-2,static-3,static-5,static-8,static-16,adasd,adaedl,adasd+adasd,adasd+collision,"
    "adaedl+collision,adasd+typical,goodput,adasd-goodput"
)


@dataclass(frozen=True, slots=True)
class Series:
    """One ``adasd eval``."""

    name: str
    title: str
    options: tuple[str, ...]
    share: float  # share of --n: prompts per task


SERIES = (
    Series("all-methods", "All methods", ("--methods", "all", "--temperatures", "0,0.7,1"), 1.0),
    Series(
        "messy",
        "Prompts as people type them",
        ("--workload", "messy", "--methods", CHOSEN, "--temperatures", "0,0.7,1"),
        1.0,
    ),
    Series(
        "hopeless-draft",
        "A hopeless draft: noise of 0.35 standard deviations on its weights",
        ("--draft-noise", "0.35", "--methods", CHOSEN, "--temperatures", "0,0.7,1"),
        1.0,
    ),
    Series(
        "strong-draft",
        "A strong draft: the target itself with noise of 0.1 standard deviations",
        (
            *("--draft", str(DEMO / "target"), "--draft-noise", "0.1", "--methods", CHOSEN),
            *("--temperatures", "0,0.7,1"),
        ),
        0.7,
    ),
)


RunSeries = Callable[[Sequence[str], Console], Evaluation]
"""Runs an ``adasd eval`` with these options and returns its report; raises AdasdError."""


def write_all(folder: Path, num_per_task: int, seed: int, run: RunSeries) -> int:
    """Run all series; returns the exit status."""
    folder.mkdir(parents=True, exist_ok=True)
    console, tables = Console(), list[str]()
    for series in SERIES:
        console.print(series.title)
        num = max(1, round(series.share * num_per_task))
        cost = ("--cost-ratio", f"{COST_RATIOS[1]:g}")  # that of the column with static lengths
        words = [*series.options, *cost, "--n", str(num), "--seed", str(seed)]
        try:
            report = run(words, console)
        except AdasdError as error:
            print(f"adasd eval: {series.name}: {error}", file=sys.stderr)
            return 2
        (folder / f"{series.name}.json").write_text(_anywhere(json.dumps(report.as_json(), indent=1)) + "\n")
        (folder / f"{series.name}.html").write_text(_anywhere(page(report)), encoding="utf-8")
        command = _anywhere(" ".join(words))
        tables += [f"## {series.title}", f"    adasd eval {command}", *_markdown(report)]
    (folder / "tables.md").write_text("\n\n".join(tables) + "\n")
    return 0


def _anywhere(text: str) -> str:
    """The same text with the demo pair at its path in a checkout."""
    return text.replace(str(DEMO), "models/demo")


def _markdown(report: Evaluation) -> Iterator[str]:
    """One table per temperature."""
    costs = " | ".join(f"c={ratio:g}" for ratio in COST_RATIOS)
    head = (
        "| Method | right, % | change, points (95 %) | tokens per pass | accepted | relaxed, % | distortion, % | "
        f"{costs} | over best static, c={COST_RATIOS[1]:g} | by CPU time |\n" + "|---" + "|--:" * 11 + "|"
    )
    for temperature in report.temperatures:
        rows = [_row(report, row) for row in report.of(temperature)]
        yield f"### Temperature {temperature:g}"
        yield "\n".join([head, *rows])


def _row(report: Evaluation, row: MethodFigures) -> str:
    over = report.over_best_static(row)[1]
    cells = (
        row.method,
        f"{100 * (row.accuracy or 0):.1f}",
        f"{100 * row.accuracy_change:+.1f} [{100 * row.change_low:+.1f}, {100 * row.change_high:+.1f}]",
        f"{row.tokens_per_round:.2f}",
        f"{row.num_accepted / row.num_drafted:.2f}" if row.num_drafted else "",
        f"{100 * row.relaxed_share:.1f}",
        "" if row.distortion_share is None else f"{100 * row.distortion_share:.1f}",
        *(f"{speed:.2f}" for speed in row.speed_ups),
        "" if over is None else f"{over:.2f}",
        known(row.cpu_speed_up, ".2f"),
    )
    return f"| {' | '.join(cells)} |"
