"""The report as one self-contained HTML page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Any

from adasd.charts.chart import Line, Lines, Point, Points, section
from adasd.charts.page import document, grid
from adasd.evaluate.colours import colour
from adasd.evaluate.evaluation import Evaluation
from adasd.evaluate.method_figures import COST_RATIOS, MethodFigures
from adasd.evaluate.tables import COLUMNS, cells, known

SHOWN = ("static-16", "adasd", "adaedl", "adasd+adasd", "adasd+collision", "adaedl+collision")
"""Methods in the line plots, if they were run."""


def page(report: Evaluation, title: str = "Evaluation of speculative decoding methods") -> str:
    """The whole page of one evaluation."""
    body = "".join(_section(report, temperature) for temperature in report.temperatures)
    body += f"<h2>Where it comes from</h2><pre>{escape(json.dumps(report.about, indent=2))}</pre>"
    return document("adasd eval", title, provenance(report.about), body)


def provenance(about: Mapping[str, Any]) -> tuple[str, ...]:
    """Pair, number of prompts, date and commit; empty where one is not known."""
    options = about.get("options", {})
    return (
        f"target {options['target']}, draft {options['draft']}" if "draft" in options else "",
        f"{about['num_prompts']} prompts" if "num_prompts" in about else "",
        str(about.get("date", "")),
        f"commit {str(about['commit'])[:7]}" if "commit" in about else "",
    )


def front(rows: Sequence[MethodFigures], ratio_index: int) -> set[str]:
    """The Pareto front: methods that no other one beats in both accuracy and modelled speed."""
    best: set[str] = set()
    for row in rows:
        speed, accuracy = row.speed_ups[ratio_index], row.accuracy or 0.0
        beaten = any(
            other.speed_ups[ratio_index] >= speed
            and (other.accuracy or 0.0) >= accuracy
            and (other.speed_ups[ratio_index], other.accuracy or 0.0) != (speed, accuracy)
            for other in rows
        )
        if not beaten:
            best.add(row.method)
    return best


def _section(report: Evaluation, temperature: float) -> str:
    rows = report.of(temperature)
    return (
        f"<h2>Temperature {temperature:g}</h2>"
        + grid([section(chart) for chart in _charts(report, temperature)])
        + f"<div class=wide>{_table(report, rows)}</div>"
        + "".join(
            f"<h3>{escape(group)}</h3><div class=wide>{_table(report, report.of(temperature, group))}</div>"
            for group in report.groups[1:]
        )
    )


def _charts(report: Evaluation, temperature: float) -> Iterator[Lines | Points]:
    rows = report.of(temperature)
    if any(row.accuracy is not None for row in rows):
        best = front(rows, 1)
        points = [
            Point(row.method, row.speed_ups[1], row.accuracy or 0, colour(row.method), row.method in best)
            for row in rows
        ]
        speed = f"modelled speed-up at c = {COST_RATIOS[1]:g}"
        yield Points(
            "Accuracy against speed; large points are the front", speed, "accuracy", points, share=True
        )
    acceptance = [
        Line(
            row.method,
            [a if n >= 10 else None for a, n in zip(row.acceptance, row.reached, strict=True)],
            colour(row.method),
        )
        for name in SHOWN
        for row in rows
        if row.method == name
    ]
    title = "Accepted among judged, by position in the block (where ten or more were judged)"
    yield _numbered(title, "position in the block", acceptance, share=True)
    traces = [
        trace
        for name in SHOWN
        for trace in report.traces
        if (trace.method, trace.temperature) == (name, temperature)
    ]
    generation = [Line(t.method, t.generation, colour(t.method)) for t in traces]
    yield _numbered("How the generation threshold moved: entropy ceiling, nats", "answer", generation)
    thresholds = [Line(t.method, t.acceptance, colour(t.method)) for t in traces]
    yield _numbered("How the acceptance threshold moved: distance", "answer", thresholds)


def _numbered(title: str, x_title: str, lines: Sequence[Line], share: bool = False) -> Lines:
    """Lines over 1, 2, 3, ...; shorter ones end early."""
    longest = max((len(line.values) for line in lines), default=0)
    filled = [replace(line, values=[*line.values, *[None] * (longest - len(line.values))]) for line in lines]
    return Lines(title, x_title, range(1, longest + 1), filled, share)


def _table(report: Evaluation, rows: Sequence[MethodFigures]) -> str:
    head = (
        *COLUMNS,
        *(f"c={ratio:g}" for ratio in COST_RATIOS),
        "vs best static",
        "measured",
        "by CPU time",
        "same answers",
    )
    lines = [f"<tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>"]
    for row in rows:
        over = report.over_best_static(row)[1]
        values = (
            *cells(row),
            *(f"{speed:.2f}" for speed in row.speed_ups),
            "" if over is None else f"{over:.2f}",
            f"{row.measured_speed_up:.2f}",
            known(row.cpu_speed_up, ".2f"),
            f"{row.same_answers:.0%}",
        )
        lines.append(f"<tr>{''.join(f'<td>{escape(value)}</td>' for value in values)}</tr>")
    return f"<table>{''.join(lines)}</table>"
