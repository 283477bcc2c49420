"""The figures of one machine in one command: ``python -m load_tests.load.baselines`` (``make baselines``).

Plays steady, ramp, burst, mixed and soak on one demo server, one after the other, about 15 minutes on 2 cores.
Writes ``load_tests/baselines/bench_<scenario>-<hardware>.json``, the pages to ``runs/bench`` and, with ``--docs``,
the table in docs/operations.md. The exit status is 1 if any of them did not pass; the others run all the same.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from adasd.errors import AdasdError, ConfigError
from load_tests import record
from load_tests.benchmarks import BASELINES
from load_tests.load.command import RESULTS, keep, play
from load_tests.load.result_table import flat, percent, times
from load_tests.load.scenarios import SCENARIOS
from load_tests.load.server_under_test import demo_server
from load_tests.load.stage import Options

DOCS = record.ROOT / "docs" / "operations.md"
BEGIN, END = "<!-- baselines: written by `make baselines` -->\n", "<!-- end of baselines -->\n"
HEAD = (
    "Load",
    "requests",
    "failed",
    "answers/s",
    "tokens/s",
    "first token ms, p50 (p99)",
    "per token ms",
    "accepted",
    "right",
    "good",
)
ORDER = ("steady", "ramp", "burst", "mixed", "soak")


def main(arguments: list[str] | None = None) -> int:
    """Run all, then print what belongs into the documentation."""
    parser = argparse.ArgumentParser(prog="python -m load_tests.load.baselines", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--folder", type=Path, default=record.ROOT / BASELINES, help=f"[{BASELINES}]")
    parser.add_argument("--scenarios", nargs="+", choices=ORDER, default=ORDER, help="some of them [all]")
    parser.add_argument("--soak-requests", type=int, default=20_000, help="[20000]")
    parser.add_argument("--docs", action="store_true", help="also write the table in docs/operations.md")
    options = parser.parse_args(arguments)
    console, found = record.console(), {}
    try:
        with demo_server({}) as server:
            for name in options.scenarios:
                console.rule(name)
                given = Options(num_requests=options.soak_requests if name == "soak" else None)
                result, _ = play(SCENARIOS[name], server, given, [name], console)
                stem = f"bench_{name}-{record.hardware()}"
                keep(result, options.folder / f"{stem}.json", RESULTS / f"{stem}.html", console)
                found[name] = result
                if result["ended_early"]:
                    break
    except AdasdError as error:
        print(f"baselines: {error}", file=sys.stderr)
        return 1
    text = "\n".join(markdown(found)) + "\n"
    console.rule("for docs/operations.md")
    print(text)
    if options.docs:
        DOCS.write_text(between_marks(DOCS.read_text(encoding="utf-8"), text), encoding="utf-8")
    passed = [name for name, result in found.items() if not result["problems"] and not result["ended_early"]]
    print(f"{len(passed)} of {len(options.scenarios)} scenarios passed")
    return 0 if len(passed) == len(options.scenarios) else 1


def between_marks(page: str, text: str) -> str:
    """The page with ``text`` between the marks; ConfigError if it has no marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError(f"the page has no {BEGIN.strip()} and {END.strip()} to write between")
    return f"{before}{begin}{text}{end}{after}"


def markdown(found: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """A table of the scenarios, the modes, the knee, and the soak's before and after."""
    first = next(iter(found.values()))
    machine = first["machine"]
    yield f"{machine['cpu']}, {machine['cores']} cores, commit {first['commit']}, {first['date'][:10]}."
    yield ""
    yield f"| {' | '.join(HEAD)} |"
    yield f"|---|{'--:|' * (len(HEAD) - 1)}"
    for name, result in found.items():
        yield row(name, result["figures"])
        if name == "mixed":
            yield from (row(f"mixed, `{kind['name']}`", kind) for kind in result["kinds"])
    yield ""
    for result in found.values():
        yield from (f"**{note[0].upper()}{note[1:]}.**" for note in result["notes"])
    if "soak" in found and all(found["soak"]["server"].values()):
        before, after = (flat(found["soak"]["server"][end]) for end in ("before", "after"))
        yield ""
        yield "| soak | before | after |"
        yield "|---|--:|--:|"
        yield from (f"| {name} | {before.get(name, 0):g} | {value:g} |" for name, value in after.items())


def row(name: str, group: Mapping[str, Any]) -> str:
    """One row of the table."""
    failed = sum(group["outcomes"].get(outcome, 0) for outcome in ("failed", "overloaded", "cut"))
    return (
        f"| {name} | {group['num_requests']} | {failed} | {group['answers_per_s']:.1f} | "
        f"{group['tokens_per_s']:.0f} | {times(group['first_token_ms'])} | {times(group['per_token_ms'])} | "
        f"{percent(group['acceptance'])} | {percent(group['right'])} | {group['attainment']:.1%} |"
    )


if __name__ == "__main__":
    sys.exit(main())
