"""Time series as a small SVG file: panels above each other, with one time axis in seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, LEFT, TOP, GAP = 720, 130, 60, 24, 34
COLOURS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700")


@dataclass(frozen=True)
class PlotPanel:
    """Lines that share a scale starting at 0; a missing value is None."""

    title: str
    lines: Mapping[str, Sequence[float | None]]


def svg(seconds: Sequence[float], panels: Sequence[PlotPanel]) -> str:
    """The whole SVG; ``seconds`` ascend, and every line has as many values."""
    height = TOP + len(panels) * (HEIGHT + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 20}" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for number, panel in enumerate(panels):
        parts += _panel(panel, seconds, TOP + number * (HEIGHT + GAP))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(panel: PlotPanel, seconds: Sequence[float], top: float) -> list[str]:
    most = max((value for line in panel.lines.values() for value in line if value is not None), default=0.0)
    most, last = most or 1.0, (seconds[-1] if seconds else 0.0) or 1.0
    parts = [
        f'<text x="{LEFT}" y="{top - 6}" font-weight="bold">{escape(panel.title)}</text>',
        f'<rect x="{LEFT}" y="{top}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#ccc"/>',
        f'<text x="{LEFT - 6}" y="{top + 10}" text-anchor="end">{most:.3g}</text>',
        f'<text x="{LEFT - 6}" y="{top + HEIGHT}" text-anchor="end">0</text>',
        f'<text x="{LEFT + WIDTH}" y="{top + HEIGHT + 13}" text-anchor="end">{last:.0f} s</text>',
    ]
    for number, (name, values) in enumerate(panel.lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join(
            f"{LEFT + WIDTH * at_s / last:.1f},{top + HEIGHT * (1 - value / most):.1f}"
            for at_s, value in zip(seconds, values, strict=True)
            if value is not None
        )
        x = LEFT + WIDTH - 90 * (len(panel.lines) - number)
        parts += [
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>',
            f'<text x="{x}" y="{top - 6}" fill="{colour}">{escape(name)}</text>',
        ]
    return parts
