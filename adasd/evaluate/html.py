"""The report as one self-contained HTML page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from adasd.evaluate.colours import colour
from adasd.evaluate.evaluation import Evaluation
from adasd.evaluate.method_figures import COST_RATIOS, MethodFigures
from adasd.evaluate.plots import Curve, Point, chart, scatter
from adasd.evaluate.tables import COLUMNS, cells, known

STYLE = """
:root{color-scheme:light dark;--text:#1d2127;--soft:#626a75;--rule:#dfe3e8;--page:#fff}
@media(prefers-color-scheme:dark){:root{--text:#e4e7eb;--soft:#99a1ac;--rule:#343a42;--page:#15181c}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--text);background:var(--page);max-width:72rem;margin:2rem auto;
padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.5rem}h3{font-size:1rem;font-weight:600}
.plots{display:flex;flex-wrap:wrap;gap:1.5rem}figure{margin:0;flex:1 1 26rem;max-width:44rem}
figcaption{color:var(--soft);font-size:.9rem}
svg{width:100%;height:auto}svg text{font-size:11px;fill:var(--soft)}
.grid{stroke:var(--rule)}.axis{stroke:var(--soft)}.front{fill:none;stroke:var(--soft);stroke-dasharray:4 4}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.88rem}
th,td{padding:.25rem .6rem;text-align:right;border-bottom:1px solid var(--rule);white-space:nowrap}
th:first-child,td:first-child{text-align:left}pre{font-size:.8rem;overflow-x:auto}
"""

SHOWN = ("static-16", "adasd", "adaedl", "adasd+adasd", "adasd+collision", "adaedl+collision")
"""Methods in the line plots, if they were run."""


def page(report: Evaluation, title: str = "Evaluation of speculative decoding methods") -> str:
    """The whole page of one evaluation."""
    body = "".join(_section(report, temperature) for temperature in report.temperatures)
    body += f"<h2>Where it comes from</h2><pre>{escape(json.dumps(report.about, indent=2))}</pre>"
    return document(title, provenance(report.about), body)


def document(title: str, made: str, body: str) -> str:
    """A page that needs no other file; ``made`` says where its figures come from."""
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>adasd eval</title>"
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        f"<style>{STYLE}</style><h1>{escape(title)}</h1><p>{escape(made)}</p>{body}"
    )


def provenance(about: Mapping[str, Any]) -> str:
    """Pair, number of prompts, date and commit, as far as they are known."""
    options = about.get("options", {})
    parts = (
        f"target {options['target']}, draft {options['draft']}" if "draft" in options else "",
        f"{about['num_prompts']} prompts" if "num_prompts" in about else "",
        str(about.get("date", "")),
        f"commit {str(about['commit'])[:7]}" if "commit" in about else "",
    )
    return "; ".join(part for part in parts if part)


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
        f"<h2>Temperature {temperature:g}</h2><div class=plots>"
        + "".join(figure(svg, caption) for svg, caption in _plots(report, temperature) if svg)
        + f"</div><div class=wide>{_table(report, rows)}</div>"
        + "".join(
            f"<h3>{escape(group)}</h3><div class=wide>{_table(report, report.of(temperature, group))}</div>"
            for group in report.groups[1:]
        )
    )


def _plots(report: Evaluation, temperature: float) -> Iterator[tuple[str, str]]:
    rows = report.of(temperature)
    if any(row.accuracy is not None for row in rows):
        best = front(rows, 1)
        points = [
            Point(
                row.method,
                row.speed_ups[1],
                100 * (row.accuracy or 0),
                colour(row.method),
                row.method in best,
            )
            for row in rows
        ]
        speed = f"modelled speed-up at c = {COST_RATIOS[1]:g}"
        yield scatter(points, speed, "accuracy, %"), "Accuracy against speed; large points are the front."
    chosen = [row for name in SHOWN for row in rows if row.method == name]
    lines = [
        Curve(
            row.method,
            tuple(a if n >= 10 else None for a, n in zip(row.acceptance, row.reached, strict=True)),
            colour(row.method),
        )
        for row in chosen
    ]
    yield (
        chart(lines, "position in the block", "accepted among judged", 0.0),
        "Acceptance by position, where it was judged ten times or more.",
    )
    traces = [
        trace
        for name in SHOWN
        for trace in report.traces
        if (trace.method, trace.temperature) == (name, temperature)
    ]
    generation = [Curve(t.method, t.generation, colour(t.method)) for t in traces]
    yield chart(generation, "answer", "entropy ceiling, nats"), "How the generation threshold moved."
    acceptance = [
        Curve(t.method, t.acceptance, colour(t.method))
        for t in traces
        if any(value is not None for value in t.acceptance)
    ]
    yield chart(acceptance, "answer", "distance", 0.0), "How the acceptance threshold moved."


def figure(svg: str, caption: str) -> str:
    """A picture with a line below."""
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


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
