"""One colour per method, the same in every plot of every page."""

from __future__ import annotations

from zlib import crc32

KNOWN = {
    "off": "#8a8f98",
    "static-5": "#4d5866",
    "assisted": "#b07d2b",
    "confidence": "#5b8c2a",
    "adaedl": "#2f9e5f",
    "on-the-fly": "#1f9bb0",
    "goodput": "#4269d0",
    "adasd": "#d9730d",
    "adasd-goodput": "#a8582a",
    "calibrated": "#c2386b",
    "adasd+adasd": "#7d5bbe",
    "adasd+adasd:min_ratio=0.25": "#b23fc4",
    "static-5+adasd": "#9a86d8",
    "adasd+collision": "#d03f3f",
    "adaedl+collision": "#e07a7a",
    "adasd+typical": "#77771f",
    "adasd+fly": "#2b6f77",
}
REST = ("#5f7f9f", "#9f5f7f", "#7f9f5f", "#5f9f8f", "#9f7f5f", "#7f5f9f", "#6f6f8f", "#8f6f6f")


def colour(name: str) -> str:
    """The colour of a method; those without one of their own share a few, by their name."""
    return KNOWN.get(name) or KNOWN.get(name.partition(":")[0]) or REST[crc32(name.encode()) % len(REST)]
