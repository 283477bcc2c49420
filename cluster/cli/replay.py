"""``adasd replay``: compare exact drafting methods over traces of a pair, in seconds.

Traces are collected once (the target writes, the draft and the look-ups are followed) and can be kept in a file. Each
method is then replayed with modelled times, at every temperature and cost ratio, against plain decoding and the best
static length of the same traces. ``adasd eval --suite`` chooses that length on other prompts.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from adasd.errors import AdasdError, ConfigError, InvalidRequest
from adasd.evaluate.cells import Cell, cells, circumstances
from adasd.evaluate.families.ask import Split
from adasd.evaluate.questions import WORKLOADS, Question, jsonl
from adasd.evaluate.replay import Costs
from adasd.evaluate.traces import Traces
from cluster.data import DEMO
from cluster.evaluation.traced_pairs import Drafts, TracedPair, traced

MODEL = "model"
WIDTH = 110  # columns that the table needs
METHODS = "static-5,assisted,confidence,adaedl,adasd,adasd-goodput,calibrated"


def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit status."""
    options = parser().parse_args(argv)
    console = Console(width=max(Console().width, WIDTH))
    try:
        costs = {
            f"c={each.strip()}": Costs(draft_ms=float(each), hop_ms=options.hop)
            for each in options.cost_ratios.split(",")
        }
        names = [name.strip() for name in options.methods.split(",")]
        by_source = _traces(options)
        if options.source not in by_source:
            raise InvalidRequest(f"there is no source {options.source!r}; choose of {', '.join(by_source)}")
        chosen = by_source[options.source]
        found = [
            cell for at in circumstances(options.source, costs, chosen, chosen) for cell in cells(at, names)
        ]
    except (AdasdError, ValueError) as error:
        print(f"adasd replay: {error}", file=sys.stderr)
        return 2
    console.print(table(found, len(chosen)))
    if options.json:
        options.json.write_text(json.dumps([as_json(cell) for cell in found], indent=1) + "\n")
    return 0


def as_json(cell: Cell) -> dict[str, object]:
    """A cell without its resampled ratios."""
    return {name: value for name, value in asdict(cell).items() if name != "resampled"}


def _traces(options: argparse.Namespace) -> Traces:
    """Load from the file as far as it goes; collect the rest, and keep it in the file if one is named."""
    file: Path | None = options.traces
    if file is not None and not file.resolve().parent.is_dir():
        raise ConfigError(f"{file} cannot be written: there is no folder {file.parent}")
    pair = TracedPair(
        "pair",
        options.target,
        {MODEL: Drafts(options.draft)},
        {Split.TEST: (options.workload, options.n, options.seed)},
        options.max_tokens,
        temperatures=tuple(float(each) for each in options.temperatures.split(",")),
    )
    known = WORKLOADS.get(options.workload)
    questions: list[Question] = (
        known(options.n, options.seed) if known else jsonl(Path(options.workload), options.n)
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        Progress(console=Console(stderr=True), transient=True) as bar,
    ):
        task = bar.add_task("traces")
        return traced(
            pair,
            questions,
            file or Path(folder) / "traces.jsonl",
            lambda done, total: bar.update(task, completed=done, total=total),
        )


def table(found: Sequence[Cell], num_traces: int) -> Table:
    """One row per method; the interval belongs to the ratio before it."""
    made = Table(title=f"{num_traces} traces; times are modelled, a target pass is 1", title_justify="left")
    for column in (
        "T",
        "draft cost",
        "method",
        "tokens/round",
        "drafted/round",
        "x off",
        "x best static",
        "95 %",
    ):
        made.add_column(column, justify="left" if column == "method" else "right")
    for cell in found:
        made.add_row(
            f"{cell.temperature:g}",
            cell.cost,
            cell.method,
            f"{cell.tokens_per_round:.2f}",
            f"{cell.drafted_per_round:.2f}",
            f"{cell.over_off.value:.2f}",
            f"{cell.over_static.value:.3f} ({cell.static})",
            f"{cell.over_static.low:.3f}-{cell.over_static.high:.3f}",
        )
    return made


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(prog="adasd replay", description=__doc__, allow_abbrev=False)
    made.add_argument("--target", default=str(DEMO / "target"), metavar="PATH_OR_ID", help="[the demo pair]")
    made.add_argument("--draft", default=str(DEMO / "draft"), metavar="PATH_OR_ID", help="[the demo pair]")
    made.add_argument(
        "--source", default=MODEL, help="which drafts to replay: model (--draft), suffix or ngram [model]"
    )
    made.add_argument(
        "--workload", default="demo", help=f"{', '.join(WORKLOADS)} or a file of JSON lines [demo]"
    )
    made.add_argument(
        "--n", type=int, default=10, help="prompts per task or family, or lines of the file [10]"
    )
    made.add_argument("--methods", default=METHODS, metavar="A,B", help=f"exact methods [{METHODS}]")
    made.add_argument("--temperatures", default="0,0.7,1", metavar="A,B", help="[0,0.7,1]")
    made.add_argument(
        "--cost-ratios",
        default="0.05,0.1,0.3",
        metavar="A,B",
        help="draft pass over target pass [0.05,0.1,0.3]",
    )
    made.add_argument(
        "--hop", type=float, default=0.0, metavar="H", help="a round's hop, in target passes [0]"
    )
    made.add_argument("--max-tokens", type=int, default=160, metavar="N", help="tokens per text [160]")
    made.add_argument("--seed", type=int, default=0, help="of prompts and sampling [0]")
    made.add_argument(
        "--traces", type=Path, metavar="FILE", help="read traces from this file, or keep them there"
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="write every cell to this file")
    return made
