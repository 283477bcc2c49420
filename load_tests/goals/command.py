"""What this project aims at on a CPU, measured: each scenario gives lines with a ratio, its goal and the figures.

    python -m load_tests.goals [SCENARIO ...] [--repeats 3] [--threads 2] [--json FILE] [--page FILE]

Scenarios, with about how many minutes they take on two cores, once the peers' environments are there:
{scenarios}
Without a name all of them run, one after the other. A scenario that cannot run is named with its reason. The exit
status is 1 if a goal is missed. Peers are installed as by ``python -m load_tests.peers``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import httpx
from rich.table import Table
from transformers.utils import logging

from adasd.errors import AdasdError
from cluster.http_client import ServerRefusal
from load_tests import record
from load_tests.demo_pair import positive
from load_tests.goals import (
    demo_service,
    hopeless_draft,
    long_prompts,
    many_streams,
    one_stream,
    quoting,
    sixteen_bits,
    verify_pass,
)
from load_tests.goals.row import Circumstances, Row, Scenario
from load_tests.load.watch import ServerGone

SCENARIOS: Mapping[str, tuple[Scenario, float]] = {
    "demo-service": (demo_service.measure, 3),
    "one-stream": (one_stream.measure, 8),
    "quoting": (quoting.measure, 2),
    "bfloat16": (sixteen_bits.measure, 5),
    "long-prompts": (long_prompts.measure, 3),
    "many-streams": (many_streams.measure, 8),
    "hopeless-draft": (hopeless_draft.measure, 2),
    "verify-pass": (verify_pass.measure, 1),
}
"""By name, with minutes."""
COLUMNS = ("what", "measured", "goal", "met", "figures")


def measured(
    names: Sequence[str], given: Circumstances, scenarios: Mapping[str, tuple[Scenario, float]]
) -> list[Row]:
    """The rows of these scenarios; one that fails is a row with its reason."""
    rows: list[Row] = []
    for name in names:
        scenario, minutes = scenarios[name]
        given.say(f"{name}, about {minutes:g} min")
        try:
            rows += scenario(given)
        except (AdasdError, ServerGone, ServerRefusal, httpx.HTTPError, OSError) as error:
            rows.append(Row(name, None, None, f"{type(error).__name__}: {error}"))
    return rows


def cells(row: Row) -> tuple[str, ...]:
    """The row as texts."""
    goal = "" if row.goal is None else f"{'<=' if row.at_most else '>='} {row.goal:g}"
    if row.measured is None:
        return row.what, "", goal, "", row.about
    return row.what, f"{row.measured:.2f}", goal, "yes" if row.is_met else "no", row.about


def page(header: Mapping[str, object], rows: Sequence[Row]) -> str:
    """The table as Markdown, with machine, date and command."""
    lines = ["# Goals on a CPU", "", record.headline(header), "", f"`{header['command']}`", ""]
    lines += [f"| {' | '.join(COLUMNS)} |", "|---|--:|--:|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(cells(row))} |" for row in rows)]) + "\n"


def main(
    arguments: list[str] | None = None, scenarios: Mapping[str, tuple[Scenario, float]] = SCENARIOS
) -> int:
    """Measure, print, write; 1 if a goal is missed or could not be measured."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments, scenarios)
    header = record.circumstances("goals", arguments, options.threads)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    console = record.console()
    console.print(record.headline(header), highlight=False)
    given = Circumstances(options.threads, options.repeats, lambda text: console.print(text, style="dim"))
    rows = measured(options.scenarios or list(scenarios), given, scenarios)
    shown = Table(*COLUMNS, title="goals on a CPU")
    for row in rows:
        shown.add_row(*cells(row))
    console.print(shown)
    if options.json:
        figures = {"repeats": options.repeats, "rows": [asdict(row) | {"is_met": row.is_met} for row in rows]}
        record.write(options.json, header, figures)
    if options.page:
        options.page.write_text(page(header, rows), encoding="utf-8")
    return 0 if all(row.is_met for row in rows) else 1


def parse(arguments: Sequence[str], scenarios: Mapping[str, tuple[Scenario, float]]) -> argparse.Namespace:
    minutes = "\n".join(f"    {name:16} {of:g}" for name, (_, of) in scenarios.items())
    parser = argparse.ArgumentParser(
        prog="python -m load_tests.goals", description=(__doc__ or "").format(scenarios=minutes)
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(scenarios)} [all]")
    parser.add_argument("--repeats", type=positive, default=3, help="times that each is measured [3]")
    parser.add_argument("--threads", type=positive, default=2, help="threads of models in process [2]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    parser.add_argument("--page", type=Path, metavar="FILE", help="also write the table as Markdown")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.scenarios if name not in scenarios]:
        parser.error(f"there is no scenario {unknown[0]!r}; there are {', '.join(scenarios)}")
    return options
