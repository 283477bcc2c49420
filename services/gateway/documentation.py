"""The tables of options in docs/api.md, from the fields of a request: ``python -m services.gateway.documentation``.

With ``--check`` nothing is written; the exit status is 1 if the document differs from the fields.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import fields
from pathlib import Path

from adasd.requests import (
    GenerationRequest,
    RequestOption,
    SamplingParams,
    SpeculationOptions,
    TextOptions,
    options_of,
)
from services.gateway.validation import range_of

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "api.md"
TABLE = re.compile(r"(<!-- options: ([\w ]+) -->\n).*?(<!-- end of options -->)", re.DOTALL)
"""Matches one table; the second group names its dataclasses."""
KINDS = {kind.__name__: kind for kind in (SamplingParams, SpeculationOptions, GenerationRequest, TextOptions)}


def documented(text: str) -> str:
    """The document with its tables regenerated from the fields."""
    return TABLE.sub(
        lambda found: found[1] + table(*(KINDS[name] for name in found[2].split())) + found[3], text
    )


def table(*kinds: type) -> str:
    """One row per option: its name over HTTP and gRPC, what it does, its range."""
    lines = ["| Option | Meaning | Range |", "|---|---|---|"]
    for kind in kinds:
        options = options_of(kind)
        lines += [_line(one.name, options[one.name]) for one in fields(kind) if one.name in options]
    return "\n".join(lines) + "\n"


def _line(name: str, option: RequestOption) -> str:
    shown = f"`{name}`" if option.http is None else f"{option.http} (gRPC: `{name}`)"
    bounds = [range_of(option)]
    if option.max_chars is not None:
        bounds.append(f"1 to {option.max_chars} characters")
    if option.max_items is not None:
        bounds.append(f"up to {option.max_items} of them")
    return f"| {shown} | {option.sentence} | {', '.join(filter(None, bounds))} |"


def main(arguments: list[str] | None = None) -> int:
    """Write the tables, or with ``--check`` compare them; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m services.gateway.documentation")
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if a table is stale")
    options = parser.parse_args(arguments)
    before = DOCUMENT.read_text(encoding="utf-8")
    now = documented(before)
    if options.check and now != before:
        print("docs/api.md is stale: run python -m services.gateway.documentation", file=sys.stderr)
        return 1
    if now != before:
        DOCUMENT.write_text(now, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
