"""Time series on a page of one file: uPlot draws them, with a legend that shows the values under the pointer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

UPLOT = Path(__file__).resolve().parent / "vendor" / "uplot"
GLUE = Path(__file__).resolve().with_name("charts.js")


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines over one time axis, in seconds; a missing value is None. ``share``: the values are shares, shown in %."""

    title: str
    lines: Mapping[str, Sequence[float | None]]
    share: bool = False


def head() -> str:
    """The library, for a page's head."""
    style = (UPLOT / "uPlot.min.css").read_text(encoding="utf-8")
    return (
        f"<style>{style}</style><script>{(UPLOT / 'uPlot.iife.min.js').read_text(encoding='utf-8')}</script>"
    )


def drawn(seconds: Sequence[float], charts: Sequence[Chart]) -> str:
    """The charts in the page's body; pointing at one marks the same second in all."""
    boxes = "".join(
        f"<section class=chart><h3>{escape(chart.title)}</h3><div data-chart='{number}'></div></section>"
        for number, chart in enumerate(charts)
    )
    content = {
        "seconds": list(seconds),
        "charts": [
            {"lines": {name: list(values) for name, values in chart.lines.items()}, "share": chart.share}
            for chart in charts
        ],
    }
    data = json.dumps(content).replace("</", "<\\/")
    glue = GLUE.read_text(encoding="utf-8")
    return f"{boxes}<script type='application/json' id='charts'>{data}</script><script>{glue}</script>"
