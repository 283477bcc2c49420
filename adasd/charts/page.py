"""One page: its style, its head with the charting library, and a line that says where its figures come from."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

HERE = Path(__file__).resolve().parent
STYLE = """
:root{color-scheme:light dark;--text:#1d2127;--soft:#626a75;--rule:#dfe3e8;--page:#fff;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--text:#e4e7eb;--soft:#99a1ac;--rule:#343a42;--page:#15181c;--bad:#ff9089}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--text);background:var(--page);max-width:72rem;margin:0 auto;
padding:1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.5rem}h3{font-size:1rem;font-weight:600}
.made{color:var(--soft);overflow-wrap:anywhere}.bad{color:var(--bad);font-weight:600}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.88rem}
th,td{padding:.25rem .6rem;text-align:right;border-bottom:1px solid var(--rule);white-space:nowrap}
th:first-child,td:first-child{text-align:left}pre{font-size:.8rem;white-space:pre-wrap;overflow-wrap:anywhere}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,24rem),1fr));gap:1rem}
.chart{min-width:0}.chart h3{margin:.5rem 0}.plot{position:relative}
.u-legend{font-size:.8rem;text-align:left}.u-legend th,.u-legend td{border:0;padding:0 .3rem;text-align:left}
.tip{position:absolute;z-index:9;pointer-events:none;padding:.1rem .5rem;border:1px solid var(--rule);
border-radius:4px;background:var(--page);font-size:.8rem;white-space:nowrap}
"""


def document(name: str, heading: str, made: Sequence[str], body: str) -> str:
    """A page that needs no other file.

    ``made``: where its figures come from (pair, number of requests, date, commit), as far as it is known.
    """
    said = " · ".join(part for part in made if part)
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(name)}</title>"
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        f"<style>{_text('uplot/uPlot.min.css')}{STYLE}</style><script>{_text('uplot/uPlot.iife.min.js')}</script>"
        f"<script>{_text('charts.js')}</script>"
        f"<h1>{escape(heading)}</h1>{f'<p class=made>{escape(said)}</p>' if said else ''}{body}"
    )


def grid(sections: Sequence[str]) -> str:
    """Charts side by side as far as the screen is wide; empty without one."""
    drawn = "".join(sections)
    return f"<div class=charts>{drawn}</div>" if drawn else ""


def _text(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")
