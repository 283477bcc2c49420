"""Plots as inline SVG text: labelled points, and lines. They need no script, font or other file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 56, 150, 16, 44


@dataclass(frozen=True, slots=True)
class Point:
    """One labelled point."""

    label: str
    x: float
    y: float
    colour: str
    strong: bool = False  # on the front; drawn larger


@dataclass(frozen=True, slots=True)
class Curve:
    """One line; None is a gap."""

    label: str
    values: tuple[float | None, ...]  # over 1, 2, 3, ... or over the positions of the chart
    colour: str


@dataclass(frozen=True, slots=True)
class Axes:
    """Titles and ranges of the axes."""

    x_title: str
    y_title: str
    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        return LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (value - self.y_low) / (self.y_high - self.y_low) * (HEIGHT - TOP - BOTTOM)


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round values between ``low`` and ``high``: steps of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def span(values: Sequence[float], margin: float = 0.08) -> tuple[float, float]:
    """A range that holds the values, with a margin."""
    low, high = min(values), max(values)
    air = (high - low) * margin or max(abs(high) * 0.1, 0.1)
    return low - air, high + air


def scatter(points: Sequence[Point], x_title: str, y_title: str) -> str:
    """Labelled points; a line from left to right joins the strong ones, which form the front."""
    if not points:
        return ""
    axes = Axes(x_title, y_title, *span([p.x for p in points]), *span([p.y for p in points]))
    front = sorted((p for p in points if p.strong), key=lambda p: p.x)
    path = " ".join(f"{axes.x(p.x):.1f},{axes.y(p.y):.1f}" for p in front)
    body = [f'<polyline points="{path}" class="front"/>'] if len(front) > 1 else []
    taken: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda p: not p.strong):
        x, y = axes.x(point.x), axes.y(point.y)
        body.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{6 if point.strong else 4}" fill="{point.colour}">'
            f"<title>{escape(point.label)}: {point.x:.3g}, {point.y:.3g}</title></circle>"
        )
        if all(abs(x - other_x) > 110 or abs(y - other_y) > 11 for other_x, other_y in taken):
            taken.append((x, y))
            body.append(f'<text x="{x + 8:.1f}" y="{y + 4:.1f}">{escape(point.label)}</text>')
    return _picture(axes, body)


def chart(
    lines: Sequence[Curve],
    x_title: str,
    y_title: str,
    low: float | None = None,
    positions: Sequence[float] | None = None,
) -> str:
    """Lines over rising positions (None: 1, 2, 3, ...) with a legend at the right; empty if there is none to draw."""
    known = [value for line in lines for value in line.values if value is not None]
    if not known:
        return ""
    y_low, y_high = span(known)
    longest = max(len(line.values) for line in lines)
    at = list(positions) if positions is not None else [float(i + 1) for i in range(longest)]
    x_high = at[-1] if at[-1] > at[0] else at[0] + 1
    axes = Axes(x_title, y_title, at[0], x_high, y_low if low is None else low, y_high)
    body = []
    for number, line in enumerate(lines):
        for piece in _pieces(at, line.values):
            path = " ".join(f"{axes.x(x):.1f},{axes.y(value):.1f}" for x, value in piece)
            body.append(f'<polyline points="{path}" fill="none" stroke="{line.colour}" stroke-width="2"/>')
        y = TOP + 14 + 18 * number
        body.append(
            f'<rect x="{WIDTH - RIGHT + 12}" y="{y - 8}" width="12" height="4" fill="{line.colour}"/>'
            f'<text x="{WIDTH - RIGHT + 30}" y="{y}">{escape(line.label)}</text>'
        )
    return _picture(axes, body)


def _pieces(at: Sequence[float], values: Sequence[float | None]) -> list[list[tuple[float, float]]]:
    pieces: list[list[tuple[float, float]]] = [[]]
    for x, value in zip(at, values, strict=False):
        if value is None:
            pieces.append([])
        else:
            pieces[-1].append((x, value))
    return [piece for piece in pieces if piece]


def _picture(axes: Axes, body: Sequence[str]) -> str:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    frame = []
    for value in ticks(axes.y_low, axes.y_high):
        y = axes.y(value)
        frame.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" class="grid"/>')
        frame.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    for value in ticks(axes.x_low, axes.x_high):
        x = axes.x(value)
        frame.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{value:.3g}</text>')
    frame.append(f'<line x1="{LEFT}" y1="{bottom}" x2="{right}" y2="{bottom}" class="axis"/>')
    middle_x, middle_y = (LEFT + right) / 2, (TOP + bottom) / 2
    frame.append(
        f'<text x="{middle_x}" y="{HEIGHT - 6}" text-anchor="middle">{escape(axes.x_title)}</text>'
        f'<text x="14" y="{middle_y}" text-anchor="middle" transform="rotate(-90 14 {middle_y})">'
        f"{escape(axes.y_title)}</text>"
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(axes.y_title)} against {escape(axes.x_title)}">'
        + "".join([*frame, *body])
        + "</svg>"
    )
