"""Tokens per second of one answer at a time, in one process, next to ``transformers`` on the same pair.

    python -m load_tests.throughput.single_stream [--target PATH] [--draft PATH] [--threads 1] [--prompts 24]
                                       [--repeats 3] [--json FILE]

Held-out demo prompts, greedy, all contenders in turn within one run (load_tests.interleaving). Every exact contender
has to give the tokens of ``generate`` on the target alone; how many prompts differ is part of the result, and
the exit status is 1 if there are any among ours.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from rich.table import Table
from transformers.utils import logging

from adasd.demo.tasks import Example
from load_tests import record
from load_tests.demo_pair import DEMO, positive
from load_tests.demo_prompts import examples, is_right
from load_tests.interleaving import Turn, turns
from load_tests.peers.stream_peers import ASSISTED, OURS, PLAIN, Drafting, StreamPeer, load

MAX_TOKENS = 200


@dataclass(frozen=True)
class Measured:
    """One answer."""

    turn: Turn
    tokens: tuple[int, ...]
    seconds: float


@dataclass(frozen=True)
class Result:
    """One contender's figures."""

    name: str
    tokens_per_s: list[float]  # per repeat: all tokens over all seconds
    median_tokens_per_s: float
    ratio_to_generate: float  # median over repeats
    ratio_to_best_assisted: float  # median over repeats; against the assisted contender with the best median
    num_tokens: int  # of one repeat, on average
    num_differing: int  # prompts whose answer differs from generate's, in any repeat
    accuracy: float  # right answers by the task's check, all repeats
    target_passes_per_token: float | None
    accepted_share: float | None  # of drafted tokens


def race(
    contenders: Mapping[str, StreamPeer],
    prompts: Sequence[Sequence[int]],
    num_repeats: int,
    max_tokens: int,
    clock: Callable[[], float] = time.perf_counter,
    show: bool = False,
) -> list[Measured]:
    """Every contender answers the first prompt once to warm up, then all prompts in turn."""
    for contender in contenders.values():
        contender.answer(prompts[0], max_tokens)
        if contender.drafting is not None:
            contender.drafting = Drafting()
    order = list(turns(list(contenders), len(prompts), num_repeats))
    measured = []
    for turn in track(order, "measuring", disable=not show, transient=True):
        began_s = clock()
        tokens = contenders[turn.name].answer(prompts[turn.prompt], max_tokens)
        measured.append(Measured(turn, tuple(tokens), clock() - began_s))
    return measured


def results(
    measured: Sequence[Measured],
    contenders: Mapping[str, StreamPeer],
    right: Callable[[int, tuple[int, ...]], bool],
) -> list[Result]:
    """The figures; ``right(prompt, tokens)`` judges an answer."""
    rates = {name: per_repeat(measured, name) for name in contenders}
    assisted = [name for name in contenders if name in ASSISTED]
    best = max(assisted, key=lambda name: statistics.median(rates[name]), default=PLAIN)
    alone = {one.turn[:2]: one.tokens for one in measured if one.turn.name == PLAIN}
    found = []
    for name, contender in contenders.items():
        own = [one for one in measured if one.turn.name == name]
        num_tokens = sum(len(one.tokens) for one in own)
        passes, accepted = shares(contender.drafting, num_tokens)
        found.append(
            Result(
                name,
                rates[name],
                statistics.median(rates[name]),
                ratio(rates[name], rates[PLAIN]),
                ratio(rates[name], rates[best]),
                num_tokens // len(rates[name]),
                len({one.turn.prompt for one in own if one.tokens != alone[one.turn[:2]]}),
                statistics.fmean(right(one.turn.prompt, one.tokens) for one in own),
                passes,
                accepted,
            )
        )
    return found


def per_repeat(measured: Sequence[Measured], name: str) -> list[float]:
    """Tokens per second of each repeat."""
    rates = []
    for repeat in sorted({one.turn.repeat for one in measured}):
        own = [one for one in measured if one.turn.name == name and one.turn.repeat == repeat]
        rates.append(sum(len(one.tokens) for one in own) / sum(one.seconds for one in own))
    return rates


def ratio(rates: Sequence[float], others: Sequence[float]) -> float:
    """Median over repeats of the ratio within a repeat."""
    return statistics.median(own / other for own, other in zip(rates, others, strict=True))


def shares(drafting: Drafting | None, num_tokens: int) -> tuple[float | None, float | None]:
    """Target passes per token, and accepted share of drafted tokens."""
    if drafting is None:
        return None, None
    accepted = drafting.num_accepted / drafting.num_drafted if drafting.num_drafted else None
    return drafting.num_passes / max(1, num_tokens), accepted


def table(found: Sequence[Result]) -> Table:
    """The figures for a terminal."""
    shown = Table(title="one stream, greedy, held-out demo prompts")
    shown.add_column("contender", no_wrap=True)
    for column in (
        "tokens/s",
        "range",
        "x generate",
        "x assisted",
        "passes/token",
        "accepted",
        "differ",
        "right",
    ):
        shown.add_column(column, justify="right", no_wrap=True)
    for one in found:
        shown.add_row(
            one.name,
            f"{one.median_tokens_per_s:.0f}",
            f"{min(one.tokens_per_s):.0f}-{max(one.tokens_per_s):.0f}",
            f"{one.ratio_to_generate:.2f}",
            f"{one.ratio_to_best_assisted:.2f}",
            "" if one.target_passes_per_token is None else f"{one.target_passes_per_token:.2f}",
            "" if one.accepted_share is None else f"{one.accepted_share:.0%}",
            str(one.num_differing),
            f"{one.accuracy:.0%}",
        )
        if one.name in (PLAIN, list(ASSISTED)[-1]):
            shown.add_section()
    return shown


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write; 1 if one of our exact modes changed an answer."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    header = record.circumstances("throughput.single_stream", arguments, options.threads)
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    console = record.console()
    console.print(record.headline(header), highlight=False)
    pair, contenders = load(options.target, options.draft, options.device, options.threads)
    assert pair.tokenizer is not None
    chosen: list[Example] = examples(options.prompts)
    prompts = [
        pair.tokenizer.apply_chat_template([{"role": "user", "content": example.prompt}])
        for example in chosen
    ]
    with ExitStack() as stack:
        if options.llama_server:
            from load_tests.peers.llama_cpp import llama_servers

            servers = llama_servers(
                options.llama_server, options.target, options.draft, options.threads, pair.eos_ids
            )
            contenders |= stack.enter_context(servers)
        measured = race(contenders, prompts, options.repeats, options.max_tokens, show=console.is_terminal)
    found = results(
        measured, contenders, lambda prompt, tokens: is_right(chosen[prompt], pair.decode(tokens))
    )
    console.print(table(found))
    if options.json:
        figures: dict[str, Any] = {
            "target": options.target,
            "draft": options.draft,
            "device": options.device,
            "num_prompts": options.prompts,
            "num_repeats": options.repeats,
            "max_tokens": options.max_tokens,
            "results": [asdict(one) for one in found],
        }
        record.write(options.json, header, figures)
    wrong = [
        one.name for one in found if one.name in OURS and contenders[one.name].exact and one.num_differing
    ]
    for name in wrong:
        console.print(f"[red]{name} is not exact: some of its answers are not those of generate[/red]")
    return 1 if wrong else 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m load_tests.throughput.single_stream", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--target", default=str(DEMO / "target"), help="folder or Hugging Face id")
    parser.add_argument("--draft", default=str(DEMO / "draft"), help="folder or Hugging Face id")
    parser.add_argument("--device", default="cpu", help="cpu or cuda [cpu]")
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads [1]")
    parser.add_argument("--prompts", type=positive, default=24, help="held-out prompts [24]")
    parser.add_argument("--repeats", type=positive, default=3, help="times that each is answered [3]")
    parser.add_argument(
        "--max-tokens", type=positive, default=MAX_TOKENS, help=f"tokens per answer [{MAX_TOKENS}]"
    )
    parser.add_argument(
        "--llama-server",
        metavar="PATH",
        help="llama.cpp's server, to be measured as well (load_tests.peers.llama_cpp)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
