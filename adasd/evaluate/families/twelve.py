"""The twelve families by name."""

from __future__ import annotations

from collections.abc import Mapping

from adasd.evaluate.families import editing, reading, reckoning, writing
from adasd.evaluate.families.ask import Family

FAMILIES: Mapping[str, Family] = {
    "quote": reading.quote,
    "copyedit": editing.copyedit,
    "extraction": reading.extraction,
    "sorting": editing.sorting,
    "dates": reckoning.dates,
    "units": reckoning.units,
    "problem": reckoning.problem,
    "repair": editing.repair,
    "story": writing.story,
    "summary": reading.summary,
    "classification": reading.classification,
    "rewriting": editing.rewriting,
}

FREE_WORDING = ("story", "summary")
"""Families whose answers may be worded in many ways."""

SHORT = ("quote", "classification", "rewriting")
"""Families with short answers that a small model often gets right, so that few points of a loss can be seen."""
