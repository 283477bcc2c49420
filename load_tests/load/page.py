"""The result as one self-contained HTML page: where it comes from, verdict, table, charts over time, circumstances."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from adasd.evaluate.html import STYLE
from load_tests.charts import Chart, drawn, head
from load_tests.load.result_table import COLUMNS, cells, flat, sentences

PLAIN = ("timeline", "answers", "kinds", "phases", "figures", "server")
OWN_STYLE = """
body{margin:0 auto;padding:1rem}.bad{color:#b3261e;font-weight:600}.made{color:var(--soft)}
@media (prefers-color-scheme:dark){.bad{color:#ff9089}}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,24rem),1fr));gap:1rem}
.chart{min-width:0}.chart h3{margin:.5rem 0}.u-legend{font-size:.8rem;text-align:left}
.u-legend th,.u-legend td{border:0;padding:0 .3rem}.wide{overflow-x:auto}
pre{white-space:pre-wrap;overflow-wrap:anywhere}
"""


def page(result: Mapping[str, Any]) -> str:
    """The whole page."""
    name = escape(result["scenario"])
    about = {key: value for key, value in result.items() if key not in PLAIN}
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>adasd bench {name}</title>"
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        f"{head()}<style>{STYLE}{OWN_STYLE}</style><h1>Load test: {name}</h1><p>{escape(result['about'])}</p>"
        f"<p class=made>{escape(made(result))}</p>"
        + "".join(_sentence(text) for text in sentences(result))
        + f"<div class=wide>{_table(_groups(result))}</div>{_ends(result)}"
        + f"<h2>Over time</h2><div class=charts>{drawn(result['timeline']['seconds'], list(charts(result)))}</div>"
        + f"<h2>Circumstances</h2><pre>{escape(json.dumps(about, indent=1))}</pre>"
    )


def made(result: Mapping[str, Any]) -> str:
    """Where the figures come from: pair, number of requests, date, commit and machine, as far as they are known."""
    figures, machine = result["figures"], result.get("machine") or {}
    parts = (
        str(result.get("pair", "")),
        f"{figures['num_requests']} requests in {figures['seconds']:.0f} s",
        str(result.get("date", ""))[:16].replace("T", " "),
        f"commit {str(result['commit'])[:7]}" if result.get("commit") else "",
        f"{machine['cpu']}, {machine['cores']} cores" if "cpu" in machine else "",
        str(result.get("command", "")),
    )
    return " · ".join(part for part in parts if part)


def charts(result: Mapping[str, Any]) -> Iterator[Chart]:
    """Charts of the values that change during the run, per second."""
    line = result["timeline"]
    yield Chart("requests per second", {"sent": line["sent"], "done": line["done"], "failed": line["failed"]})
    yield Chart("tokens per second, by the end of their answer", {"tokens": line["tokens"]})
    yield Chart(
        "first token (ms)", {"median": line["first_token_p50_ms"], "95th perc.": line["first_token_p95_ms"]}
    )
    yield Chart(
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
            yield Chart(title, {key.replace("_", " "): line[key]}, share=key == "acceptance")


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
