"""The result as one self-contained HTML page: where it comes from, verdict, table, charts over time, circumstances."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from adasd.charts.chart import Line, Lines, section
from adasd.charts.page import document, grid
from load_tests.load.result_table import COLUMNS, cells, flat, sentences

PLAIN = ("timeline", "answers", "kinds", "phases", "figures", "server")


def page(result: Mapping[str, Any]) -> str:
    """The whole page."""
    about = {key: value for key, value in result.items() if key not in PLAIN}
    return document(
        f"adasd bench {result['scenario']}",
        f"Load test: {result['scenario']}",
        made(result),
        f"<p>{escape(result['about'])}</p>"
        + "".join(_sentence(text) for text in sentences(result))
        + f"<div class=wide>{_table(_groups(result))}</div>{_ends(result)}"
        + f"<h2>Over time</h2>{grid([section(chart) for chart in charts(result)])}"
        + f"<h2>Circumstances</h2><pre>{escape(json.dumps(about, indent=1))}</pre>",
    )


def made(result: Mapping[str, Any]) -> tuple[str, ...]:
    """Where the figures come from: pair, number of requests, date, commit and machine; empty where one is not known."""
    figures, machine = result["figures"], result.get("machine") or {}
    return (
        str(result.get("pair", "")),
        f"{figures['num_requests']} requests in {figures['seconds']:.0f} s",
        str(result.get("date", ""))[:16].replace("T", " "),
        f"commit {str(result['commit'])[:7]}" if result.get("commit") else "",
        f"{machine['cpu']}, {machine['cores']} cores" if "cpu" in machine else "",
        str(result.get("command", "")),
    )


def charts(result: Mapping[str, Any]) -> Iterator[Lines]:
    """Charts of the values that change during the run, per second."""
    line = result["timeline"]
    for title, names in (
        ("requests per second", {"sent": "sent", "done": "done", "failed": "failed"}),
        ("tokens per second, by the end of their answer", {"tokens": "tokens"}),
        ("first token (ms)", {"median": "first_token_p50_ms", "95th perc.": "first_token_p95_ms"}),
        ("at the same time", {"in flight": "in_flight", "running": "running", "waiting": "waiting"}),
    ):
        lines = [Line(name, line[key]) for name, key in names.items()]
        yield Lines(title, "second", line["seconds"], lines)
    for title, key in (
        ("open slots of both tiers", "sessions"),
        ("acceptance of drafted tokens", "acceptance"),
        ("memory of the replicas (MB)", "resident_mb"),
        ("open files of the replicas", "open_files"),
    ):
        if any(line[key]):
            lines = [Line(key.replace("_", " "), line[key])]
            yield Lines(title, "second", line["seconds"], lines, share=key == "acceptance")


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
