"""The result as one self-contained HTML page: verdict, table, plots over time, header."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from adasd.evaluate.html import STYLE
from load_tests.load.result_table import COLUMNS, cells, flat, sentences
from load_tests.plot import PlotPanel, svg

PLAIN = ("timeline", "answers", "kinds", "phases", "figures", "server")
OWN_STYLE = ".bad{color:#c2386b}.plot{background:#fff}.plot text{fill:#1d2127}"


def page(result: Mapping[str, Any]) -> str:
    """The whole page."""
    name = escape(result["scenario"])
    about = {key: value for key, value in result.items() if key not in PLAIN}
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>adasd bench {name}</title>"
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        f"<style>{STYLE}{OWN_STYLE}</style><h1>Load test: {name}</h1><p>{escape(result['about'])}</p>"
        + "".join(_sentence(text) for text in sentences(result))
        + f"<div class=wide>{_table(_groups(result))}</div>{_ends(result)}"
        + f"<h2>Over time</h2><div class=plot>{svg(result['timeline']['seconds'], list(panels(result)))}</div>"
        + f"<h2>Circumstances</h2><pre>{escape(json.dumps(about, indent=1))}</pre>"
    )


def panels(result: Mapping[str, Any]) -> Iterator[PlotPanel]:
    """Plots of the values that change during the run, per second."""
    line = result["timeline"]
    yield PlotPanel(
        "requests per second", {"sent": line["sent"], "done": line["done"], "failed": line["failed"]}
    )
    yield PlotPanel("tokens per second, by the end of their answer", {"tokens": line["tokens"]})
    yield PlotPanel(
        "first token (ms)", {"median": line["first_token_p50_ms"], "95th perc.": line["first_token_p95_ms"]}
    )
    yield PlotPanel(
        "at the same time",
        {
            name: line[key]
            for name, key in (("in flight", "in_flight"), ("running", "running"), ("waiting", "waiting"))
        },
    )
    for title, key in (
        ("open slots of both tiers", "sessions"),
        ("acceptance of drafted tokens", "acceptance"),
        ("memory of the replicas (MB)", "resident_mb"),
        ("open files of the replicas", "open_files"),
    ):
        if any(line[key]):
            yield PlotPanel(title, {key.replace("_", " "): line[key]})


def _groups(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    more = (group for name in ("phases", "kinds") if len(result[name]) > 1 for group in result[name])
    return [result["figures"], *more]


def _sentence(text: str) -> str:
    bad = ' class="bad"' if text.startswith(("✗", "!")) else ""
    return f"<p{bad}>{escape(text)}</p>"


def _table(groups: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"<tr>{''.join(f'<th>{escape(name)}</th>' for name in ('', *COLUMNS))}</tr>"]
    for group in groups:
        row = (group["name"], *cells(group))
        lines.append(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>")
    return f"<table>{''.join(lines)}</table>"


def _ends(result: Mapping[str, Any]) -> str:
    before, after = result["server"]["before"], result["server"]["after"]
    if not before or not after:
        return ""
    early, late = flat(before), flat(after)
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{early.get(name, 0):g}</td><td>{value:g}</td></tr>"
        for name, value in late.items()
    )
    return (
        "<h2>The server while nobody asks</h2><table><tr><th></th><th>before</th><th>after</th></tr>"
        f"{rows}</table>"
    )
