"""The modes of a real pair in this process, one stream: the first table of README's figures.

    python -m load_tests.goals.pair_modes [--threads 1] [--prompts 16] [--repeats 1] [--max-tokens 80]
                                            [--json FILE]

The pair is ``--pair smollm2``: its target in float32 and in int8, its draft in int8. Held-out requests of
adasd.distill.prompts, greedy, all ways in turn within one run (load_tests.interleaving). The exit status is 1 if a
way changed an answer of its target. About three minutes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import NamedTuple

from rich.table import Table

from adasd.distill import prompts
from adasd.local import Answer
from adasd.requests import Mode, SamplingParams, SpeculationOptions
from adasd.results import SpeculationReport
from load_tests import record
from load_tests.demo_pair import positive
from load_tests.goals.in_process import Engines
from load_tests.goals.row import ratio, smollm2
from load_tests.interleaving import turns
from load_tests.throughput.single_stream import Measured, per_repeat

OFF, EXACT = SpeculationOptions(Mode.OFF), SpeculationOptions(Mode.EXACT)


class Way(NamedTuple):
    """A mode in front of a target with these weights."""

    weights: str
    name: str
    options: SpeculationOptions


PLAIN = Way("full", "off", OFF)
WAYS = (
    PLAIN,
    Way("full", "exact", EXACT),
    *(
        Way(
            "full",
            f"exact, fixed blocks of {length}",
            SpeculationOptions(Mode.EXACT, drafting="static", max_draft_tokens=length),
        )
        for length in (2, 5)
    ),
    Way("int8", "int8 target, off", OFF),
    Way("int8", "int8 target, exact", EXACT),
)


@dataclass(frozen=True)
class Reported(Measured):
    """One answer, and what was drafted for it."""

    report: SpeculationReport


@dataclass(frozen=True)
class Result:
    """One way's figures."""

    name: str
    tokens_per_s: list[float]  # per repeat: all tokens over all seconds
    over_off: float  # median over repeats; against plain decoding of the full target
    accepted_share: float | None  # of drafted tokens
    num_differing: int  # answers that are not those of plain decoding of the same target


def race(
    ways: Mapping[str, Callable[[int], Answer]],
    num_prompts: int,
    num_repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Reported]:
    """Every way answers the first prompt once to warm up, then all prompts in turn."""
    for answer in ways.values():
        answer(0)
    measured = []
    for turn in turns(list(ways), num_prompts, num_repeats):
        began_s = clock()
        answer = ways[turn.name](turn.prompt)
        seconds = clock() - began_s
        measured.append(Reported(turn, answer.token_ids, seconds, answer.report))
    return measured


def results(measured: Sequence[Reported], ways: Sequence[Way] = WAYS) -> list[Result]:
    """The figures of each way, in order."""
    rates = {way.name: per_repeat(measured, way.name) for way in ways}
    texts = {one.turn: one.tokens for one in measured}
    plain = {way.weights: way.name for way in ways if way.options == OFF}
    found = []
    for way in ways:
        own = [one for one in measured if one.turn.name == way.name]
        reports = [one.report for one in own]
        num_drafted = sum(report.num_draft_tokens for report in reports)
        num_accepted = sum(report.num_accepted_tokens for report in reports)
        found.append(
            Result(
                way.name,
                rates[way.name],
                ratio(rates[way.name], rates[PLAIN.name]),
                num_accepted / num_drafted if num_drafted else None,
                sum(one.tokens != texts[one.turn._replace(name=plain[way.weights])] for one in own),
            )
        )
    return found


def answering(threads: int, num_prompts: int, max_tokens: int) -> dict[str, Callable[[int], Answer]]:
    """Each way's answer to a prompt by its number; every way has a controller of its own."""
    target, draft = map(str, smollm2())
    engines = {
        weights: Engines.load(target, draft, threads, target_weights=weights) for weights in ("full", "int8")
    }
    words = engines["full"].tokenizer
    asked = [
        words.apply_chat_template(prompt.messages())
        for prompt in islice(prompts.stream(0, held_out=True), num_prompts)
    ]
    sampling = SamplingParams(max_tokens, 0.0)

    def answers_of(way: Way) -> Callable[[int], Answer]:
        pair = engines[way.weights].pair()
        return lambda number: pair.generate(asked[number], sampling=sampling, speculation=way.options)

    return {way.name: answers_of(way) for way in WAYS}


def table(found: Sequence[Result]) -> Table:
    """The figures for a terminal."""
    shown = Table(title="SmolLM2-135M-Instruct and its draft, one stream, greedy, held-out requests")
    shown.add_column("way", no_wrap=True)
    for column in ("tokens/s", "over off", "accepted", "differ"):
        shown.add_column(column, justify="right", no_wrap=True)
    for one in found:
        shown.add_row(
            one.name,
            f"{median(one.tokens_per_s):.1f}",
            f"{one.over_off:.2f}",
            "" if one.accepted_share is None else f"{one.accepted_share:.1%}",
            str(one.num_differing),
        )
    return shown


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write; 1 if an answer differs."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    header = record.circumstances("goals.pair_modes", arguments, options.threads)
    console = record.console()
    console.print(record.headline(header), highlight=False)
    ways = answering(options.threads, options.prompts, options.max_tokens)
    found = results(race(ways, options.prompts, options.repeats))
    console.print(table(found))
    if options.json:
        asked = {
            "num_prompts": options.prompts,
            "num_repeats": options.repeats,
            "max_tokens": options.max_tokens,
        }
        record.write(options.json, header, {**asked, "results": [asdict(one) for one in found]})
    return 1 if any(one.num_differing for one in found) else 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m load_tests.goals.pair_modes", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads [1]")
    parser.add_argument("--prompts", type=positive, default=16, help="held-out requests [16]")
    parser.add_argument("--repeats", type=positive, default=1, help="times that each is answered [1]")
    parser.add_argument("--max-tokens", type=positive, default=80, help="tokens per answer [80]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
