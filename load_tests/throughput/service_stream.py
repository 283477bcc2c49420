"""What streaming clients get from a server: speed, first token, pauses, acceptance.

    python -m load_tests.throughput.service_stream --demo [--streams 16] [--prompts 24] [--repeats 3] [--json FILE]
    python -m load_tests.throughput.service_stream --url URL [the same]
    python -m load_tests.throughput.service_stream --enlarged [--prompts 6] [--repeats 3] [--json FILE]

Held-out demo prompts, greedy, over HTTP, to a running server or, with ``--demo``, to one of its own with the demo
pair and default settings. The modes off, exact and adaptive take turns, prompt by prompt (load_tests.interleaving).
With ``--streams N`` every mode gets all prompts at once in turn, N answers at a time. How many prompts have another
answer than in mode off is part of the result; the exit status is 1 if mode exact has any.

With ``--enlarged`` it starts a server of its own with the demo target made about as costly as one of 100 M
parameters, and compares it with the same pair in this process (load_tests.throughput.service_share); the exit status
is 1 below 95 %. About two minutes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import track
from rich.table import Table

from adasd.demo.tasks import Example
from adasd.requests import Mode
from cluster.http_client import ServerRefusal, first_model
from load_tests import record
from load_tests.demo_pair import positive
from load_tests.demo_prompts import examples, is_right
from load_tests.interleaving import Turn, turns
from load_tests.load.server_under_test import Server, demo_server
from load_tests.load.watch import ServerGone
from load_tests.throughput import service_share
from load_tests.throughput.single_stream import MAX_TOKENS
from load_tests.throughput.streamed import Clock, Streamed, stream

Seconds = Mapping[tuple[int, str], float]
"""How long a mode took for all prompts, by repeat and mode."""


@dataclass(frozen=True)
class ModeResult:
    """One mode's figures."""

    mode: str
    tokens_per_s: list[float]  # per repeat: all tokens over all seconds, of all streams together
    median_tokens_per_s: float
    first_token_ms: dict[str, float]  # median, p90
    gap_ms: dict[str, float]  # median, p90
    tokens_per_chunk: float
    accepted_share: float | None  # of drafted tokens
    num_differing: int  # prompts whose text differs from mode off's, in any repeat
    accuracy: float


def measure(
    client: httpx.Client,
    model: str,
    chosen: Sequence[Example],
    num_repeats: int,
    max_tokens: int,
    clock: Clock = time.perf_counter,
    show: bool = False,
    num_streams: int = 1,
) -> tuple[dict[Turn, Streamed], Seconds]:
    """All modes in turn, after one uncounted answer of each: the answers, and the seconds that they took together."""

    def ask(turn: Turn) -> Streamed:
        return stream(client, model, chosen[turn.prompt].prompt, Mode(turn.name), max_tokens, clock)

    for mode in Mode:
        ask(Turn(0, 0, mode.value))
    order = list(turns([mode.value for mode in Mode], len(chosen), num_repeats))
    answers: dict[Turn, Streamed] = {}
    seconds: dict[tuple[int, str], float] = defaultdict(float)
    if num_streams == 1:
        for turn in track(order, "measuring", disable=not show, transient=True):
            answers[turn] = ask(turn)
            seconds[turn.repeat, turn.name] += answers[turn].seconds
        return answers, seconds
    bursts = list(turns([mode.value for mode in Mode], 1, num_repeats))
    with ThreadPoolExecutor(num_streams) as pool:
        for repeat, _, name in track(bursts, "measuring", disable=not show, transient=True):
            burst = [turn for turn in order if (turn.repeat, turn.name) == (repeat, name)]
            began_s = clock()
            answers.update(zip(burst, pool.map(ask, burst), strict=True))
            seconds[repeat, name] = clock() - began_s
    return answers, seconds


def result(
    mode: Mode, measured: dict[Turn, Streamed], seconds: Seconds, chosen: Sequence[Example]
) -> ModeResult:
    """The figures of one mode."""
    own = {turn: one for turn, one in measured.items() if turn.name == mode}
    rates = []
    for repeat in sorted({turn.repeat for turn in own}):
        ones = [one for turn, one in own.items() if turn.repeat == repeat]
        rates.append(sum(one.num_tokens for one in ones) / seconds[repeat, mode.value])
    num_drafted = sum(one.num_drafted for one in own.values())
    num_chunks = sum(len(one.gaps_s) + 1 for one in own.values())
    differing = {
        turn.prompt
        for turn, one in own.items()
        if one.text != measured[turn._replace(name=Mode.OFF.value)].text
    }
    return ModeResult(
        mode.value,
        rates,
        statistics.median(rates),
        spread_ms([one.first_token_s for one in own.values()]),
        spread_ms([gap_s for one in own.values() for gap_s in one.gaps_s]),
        sum(one.num_tokens for one in own.values()) / num_chunks,
        sum(one.num_accepted for one in own.values()) / num_drafted if num_drafted else None,
        len(differing),
        statistics.fmean(is_right(chosen[turn.prompt], one.text) for turn, one in own.items()),
    )


def spread_ms(times_s: Sequence[float]) -> dict[str, float]:
    """Median and 90th percentile in milliseconds; 0 without values."""
    if not times_s:
        return {"median": 0.0, "p90": 0.0}
    ordered = sorted(times_s)
    p90 = ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))]
    return {"median": round(1e3 * statistics.median(ordered), 3), "p90": round(1e3 * p90, 3)}


def over_off(one: ModeResult, found: Sequence[ModeResult]) -> float:
    """Median over the repeats of a mode's speed divided by that of mode off."""
    off = next(each for each in found if each.mode == Mode.OFF)
    return statistics.median(
        own / plain for own, plain in zip(one.tokens_per_s, off.tokens_per_s, strict=True)
    )


def table(found: Sequence[ModeResult], num_streams: int) -> Table:
    """The figures for a terminal."""
    shown = Table(title=f"{num_streams} stream(s) through the service, greedy, held-out demo prompts")
    shown.add_column("mode", no_wrap=True)
    for column in ("tokens/s", "over off", "first token ms", "between chunks ms", "tokens/chunk"):
        shown.add_column(column, justify="right", no_wrap=True)
    for column in ("accepted", "differ", "right"):
        shown.add_column(column, justify="right", no_wrap=True)
    for one in found:
        shown.add_row(
            one.mode,
            f"{one.median_tokens_per_s:.0f}",
            f"{over_off(one, found):.2f}",
            f"{one.first_token_ms['median']:.1f} (p90 {one.first_token_ms['p90']:.1f})",
            f"{one.gap_ms['median']:.2f} (p90 {one.gap_ms['p90']:.2f})",
            f"{one.tokens_per_chunk:.2f}",
            "" if one.accepted_share is None else f"{one.accepted_share:.0%}",
            str(one.num_differing),
            f"{one.accuracy:.0%}",
        )
    return shown


def main(arguments: list[str] | None = None, transport: httpx.BaseTransport | None = None) -> int:
    """Measure, print, write; 1 if mode exact changed an answer or the server refuses."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    header = record.circumstances("throughput.service_stream", arguments)
    console = record.console()
    console.print(record.headline(header), highlight=False)
    if options.enlarged:
        return compare(options, header, console)
    chosen = examples(options.prompts)
    streams = options.streams
    limits = httpx.Limits(max_connections=streams, max_keepalive_connections=streams)
    try:
        with (
            demo_server({}) if options.demo else nullcontext(Server(options.url, None)) as server,
            httpx.Client(base_url=server.url, timeout=60.0, transport=transport, limits=limits) as client,
        ):
            model = first_model(client)
            measured, seconds = measure(
                client,
                model,
                chosen,
                options.repeats,
                options.max_tokens,
                show=console.is_terminal,
                num_streams=streams,
            )
    except (ServerGone, ServerRefusal, httpx.HTTPError) as error:
        where = "the demo server" if options.demo else options.url
        console.print(f"[red]{where}: {error or type(error).__name__}[/red]")
        return 1
    found = [result(mode, measured, seconds, chosen) for mode in Mode]
    console.print(table(found, streams))
    if options.json:
        figures = {
            "model": model,
            "num_prompts": options.prompts,
            "num_repeats": options.repeats,
            "max_tokens": options.max_tokens,
            "num_streams": streams,
            "results": [asdict(one) | {"over_off": round(over_off(one, found), 3)} for one in found],
        }
        record.write(options.json, header, figures)
    changed = next(one.num_differing for one in found if one.mode == Mode.EXACT)
    if changed:
        console.print(f"[red]mode exact gives another answer than mode off to {changed} prompts[/red]")
    return 1 if changed else 0


def compare(options: argparse.Namespace, header: dict[str, Any], console: Console) -> int:
    """The service against the pair in this process, on an enlarged target; 1 if it misses its goal."""
    with service_share.both_ways(options.max_tokens) as (ways, forwards):
        found = service_share.measure(ways, examples(options.prompts), options.repeats)
    console.print(service_share.table(found))
    console.print(forwards, style="dim", highlight=False)
    if options.json:
        figures = {
            "factor": service_share.FACTOR,
            "forwards": forwards,
            "num_prompts": options.prompts,
            "num_repeats": options.repeats,
            "max_tokens": options.max_tokens,
            "results": [asdict(one) for one in found],
        }
        record.write(options.json, header, figures)
    short = service_share.falls_short(found)
    for sentence in short:
        console.print(f"[red]{sentence}[/red]", highlight=False)
    return 1 if short else 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m load_tests.throughput.service_stream", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of a running server")
    parser.add_argument("--demo", action="store_true", help="a server of its own with the demo pair")
    parser.add_argument("--streams", type=positive, default=1, help="answers at a time [1]")
    parser.add_argument(
        "--enlarged",
        action="store_true",
        help="a server of its own with a larger target, against the same in process",
    )
    parser.add_argument("--prompts", type=positive, help="held-out prompts [24; enlarged 6]")
    parser.add_argument("--repeats", type=positive, default=3, help="times that each is answered [3]")
    parser.add_argument("--max-tokens", type=positive, help=f"tokens per answer [{MAX_TOKENS}; enlarged 64]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    options = parser.parse_args(arguments)
    options.prompts = options.prompts or (6 if options.enlarged else 24)
    options.max_tokens = options.max_tokens or (64 if options.enlarged else MAX_TOKENS)
    return options


if __name__ == "__main__":
    sys.exit(main())
