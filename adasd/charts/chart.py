"""Lines and labelled points on a page; uPlot draws them in the browser, with a legend and values under the pointer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any


@dataclass(frozen=True, slots=True)
class Line:
    """One line; None is a gap."""

    label: str
    values: Sequence[float | None]
    colour: str | None = None  # None: the next of the page's own


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines over rising values of ``x``. Charts with the same ``x_title`` mark the same place under the pointer."""

    title: str
    x_title: str
    x: Sequence[float]
    lines: Sequence[Line]
    share: bool = False  # the values are shares: shown in %, from 0 to 100
    from_zero: bool = True  # the axis begins at 0


@dataclass(frozen=True, slots=True)
class Point:
    """One labelled point."""

    label: str
    x: float
    y: float
    colour: str | None = None  # None: the next of the page's own
    strong: bool = False  # on the front; drawn larger


@dataclass(frozen=True, slots=True)
class Points:
    """Labelled points; a dashed line from left to right joins the strong ones, which form the front."""

    title: str
    x_title: str
    y_title: str
    points: Sequence[Point]
    share: bool = False  # y is a share: shown in %, never beyond 100


def section(chart: Lines | Points) -> str:
    """The chart for a page's body; empty if there is nothing to draw."""
    content = _of_lines(chart) if isinstance(chart, Lines) else _of_points(chart)
    if not any(value is not None for line in content["lines"] for value in line["values"]):
        return ""
    data = json.dumps(content).replace("<", "\\u003c")  # no word of it ends the script
    return (
        f"<section class=chart><h3>{escape(chart.title)}</h3><div class=plot></div>"
        f"<script type='application/json'>{data}</script></section>"
    )


def _of_lines(chart: Lines) -> dict[str, Any]:
    lines = [
        {"label": line.label, "values": list(line.values), "colour": line.colour}
        for line in chart.lines
        if any(value is not None for value in line.values)
    ]
    return _content("lines", chart.x_title, "", chart.x, lines, chart.share, chart.from_zero)


def _of_points(chart: Points) -> dict[str, Any]:
    """Each point is a series of its own over all x, since a legend then names it."""
    x = sorted({point.x for point in chart.points})
    lines: list[dict[str, Any]] = [
        {
            "label": point.label,
            "values": [point.y if at == point.x else None for at in x],
            "colour": point.colour,
            "size": 12 if point.strong else 8,
        }
        for point in chart.points
    ]
    front = {point.x: point.y for point in chart.points if point.strong}
    if len(front) > 1:
        lines.append({"label": "front", "values": [front.get(at) for at in x], "dash": [4, 4]})
    return _content("points", chart.x_title, chart.y_title, x, lines, chart.share, False)


def _content(
    kind: str,
    x_title: str,
    y_title: str,
    x: Sequence[float],
    lines: Sequence[Mapping[str, Any]],
    share: bool,
    from_zero: bool,
) -> dict[str, Any]:
    return {
        "kind": kind,
        "x_title": x_title,
        "y_title": y_title,
        "x": list(x),
        "lines": list(lines),
        "share": share,
        "from_zero": from_zero,
    }
