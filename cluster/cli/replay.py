"""``adasd replay``: compare exact drafting methods over traces of a pair, in seconds.

Traces are collected once (the target writes, the draft is followed) and can be kept in a file. Each method is then
replayed with modelled times, at every temperature and cost ratio, against plain decoding and the best static length.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from adasd.errors import AdasdError, ConfigError
from adasd.evaluate.compared_methods import Method, method
from adasd.evaluate.intervals import Interval, speed_ratio
from adasd.evaluate.questions import WORKLOADS, jsonl
from adasd.evaluate.replay import Costs, Replayed, replay
from adasd.evaluate.traces import Trace, collect, load, save
from cluster.data import DEMO

STATIC = tuple(f"static-{length}" for length in range(1, 17))
WIDTH = 110  # columns that the table needs
METHODS = "static-5,assisted,confidence,adaedl,adasd,adasd-goodput,calibrated"


@dataclass(frozen=True, slots=True)
class Cell:
    """One method at one temperature and cost ratio."""

    method: str
    temperature: float
    cost_ratio: float
    tokens_per_round: float
    drafted_per_round: float
    over_off: float  # tokens per millisecond, relative to plain decoding
    best_static: str
    over_best_static: Interval  # 95 % by bootstrap over prompts


def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit status."""
    options = parser().parse_args(argv)
    console = Console(width=max(Console().width, WIDTH))
    try:
        methods = [method(name.strip()) for name in options.methods.split(",")]
        traces = _traces(options, console)
        ratios = [float(each) for each in options.cost_ratios.split(",")]
        cells = [
            cell
            for temperature in dict.fromkeys(trace.temperature for trace in traces)
            for ratio in ratios
            for cell in cells_of(traces, methods, temperature, ratio, options.hop)
        ]
    except (AdasdError, ValueError) as error:
        print(f"adasd replay: {error}", file=sys.stderr)
        return 2
    console.print(table(cells, len(traces)))
    if options.json:
        options.json.write_text(json.dumps([asdict(cell) for cell in cells], indent=1) + "\n")
    return 0


def cells_of(
    traces: Sequence[Trace], methods: Sequence[Method], temperature: float, ratio: float, hop: float
) -> list[Cell]:
    """All methods at one temperature and cost ratio, each against the best static length of the same cell."""
    chosen = [trace for trace in traces if trace.temperature == temperature]
    costs = Costs(draft_ms=ratio, hop_ms=hop)

    def run(name: str) -> list[Replayed]:
        return replay(chosen, method(name), costs)

    off = run("off")
    static = {name: run(name) for name in STATIC}
    best = max(static, key=lambda name: _rate(static[name]))
    best_answers = static[best] if _rate(static[best]) > _rate(off) else off
    cells = []
    for one in methods:
        answers = replay(chosen, one, costs)
        rounds = sum(answer.num_rounds for answer in answers)
        cells.append(
            Cell(
                one.name,
                temperature,
                ratio,
                sum(answer.num_tokens for answer in answers) / rounds,
                sum(answer.num_drafted for answer in answers) / rounds,
                _rate(answers) / _rate(off),
                best if best_answers is not off else "off",
                speed_ratio([one.pace for one in answers], [one.pace for one in best_answers]),
            )
        )
    return cells


def _rate(answers: Sequence[Replayed]) -> float:
    return sum(answer.num_tokens for answer in answers) / sum(answer.ms for answer in answers)


def _traces(options: argparse.Namespace, console: Console) -> list[Trace]:
    """Load from the file if it exists; otherwise collect, and save to the file if one is named."""
    if options.traces is not None and options.traces.exists():
        return load(options.traces)
    from adasd.config import EngineConfig
    from adasd.engine.loading.model import load_model
    from adasd.engine.loading.vocabulary import check_vocabularies
    from adasd.text.tokenizer import Tokenizer

    if options.traces is not None and not options.traces.resolve().parent.is_dir():
        raise ConfigError(f"{options.traces} cannot be written: there is no folder {options.traces.parent}")
    check_vocabularies(options.target, options.draft)
    tokenizer = Tokenizer.load(options.target)
    target, draft = (load_model(EngineConfig(model)) for model in (options.target, options.draft))
    known = WORKLOADS.get(options.workload)
    items = known(options.n, options.seed) if known else jsonl(Path(options.workload), options.n)
    prompts = [
        (item.group, tokenizer.apply_chat_template([{"role": "user", "content": item.prompt}]))
        for item in items
    ]
    temperatures = [float(each) for each in options.temperatures.split(",")]
    traces = [
        trace
        for temperature in temperatures
        for trace in track(
            collect(
                target,
                draft,
                prompts,
                temperature,
                eos_ids=tokenizer.eos_ids,
                max_tokens=options.max_tokens,
                seed=options.seed,
            ),
            f"traces, T={temperature:g}",
            len(prompts),
            console=console,
            transient=True,
        )
    ]
    if options.traces is not None:
        save(options.traces, traces)
    return traces


def table(cells: Sequence[Cell], num_traces: int) -> Table:
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
    for cell in cells:
        ratio, low, high = cell.over_best_static
        made.add_row(
            f"{cell.temperature:g}",
            f"{cell.cost_ratio:g}",
            cell.method,
            f"{cell.tokens_per_round:.2f}",
            f"{cell.drafted_per_round:.2f}",
            f"{cell.over_off:.2f}",
            f"{ratio:.3f} ({cell.best_static})",
            f"{low:.3f}-{high:.3f}",
        )
    return made


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(prog="adasd replay", description=__doc__, allow_abbrev=False)
    made.add_argument("--target", default=str(DEMO / "target"), metavar="PATH_OR_ID", help="[the demo pair]")
    made.add_argument("--draft", default=str(DEMO / "draft"), metavar="PATH_OR_ID", help="[the demo pair]")
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
