"""``adasd draft``: train a small draft for any target, from what the target says."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

from adasd.errors import ConfigError

if TYPE_CHECKING:
    from adasd.distill.run import Event

LINE_EVERY_S = 30.0
"""How often a log gets a line."""

STOPPED = 3
"""Exit status of a run that was stopped and can go on."""


def main(argv: Sequence[str]) -> int:
    """Entry point; the exit status."""
    arguments = parser().parse_args(argv)
    from adasd.distill.run import Options, distil, stop_signal
    from adasd.distill.student import Shape

    console = Console()
    try:
        options = Options(
            target=arguments.target,
            out=arguments.out,
            prompts=arguments.prompts,
            minutes=arguments.minutes,
            size=Shape.parse(arguments.size) if arguments.size else None,
            earlier=arguments.earlier,
            max_tokens=arguments.max_tokens,
            device=arguments.device,
            num_threads=arguments.threads,
            seed=arguments.seed,
        )
        with stop_signal() as stopped:
            finished = show(distil(options, stopped), console)
    except (ConfigError, OSError) as error:  # a full disk, most of all
        print(f"adasd draft train: {error}", file=sys.stderr)
        return 2
    if not finished:
        console.print("stopped; the same command goes on from here", highlight=False)
        return STOPPED
    return 0


def show(events: Iterable[Event], console: Console) -> bool:
    """A bar per stage, and its figures in lines of their own; True if the run came to its end."""
    finished, last_s = False, 0.0
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()
    bars: dict[str, TaskID] = {}
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        for event in events:
            finished = event.stage == "done"
            if event.stage not in bars:
                bars[event.stage] = progress.add_task(event.stage, total=1.0)
            progress.update(bars[event.stage], completed=event.share)
            now_s = time.monotonic()
            if finished or event.stage != "answers" or now_s - last_s > LINE_EVERY_S:
                last_s = now_s
                console.print(
                    f"{event.stage} {event.share:.0%}: {event.text}",
                    highlight=False,
                    markup=False,
                    soft_wrap=True,
                )
    return finished


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="adasd draft", description="Drafts for speculative decoding.", allow_abbrev=False
    )
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    train = commands.add_parser(
        "train",
        help="make a small draft for a target",
        description="Ask the target for text and distil a small draft from it. The same command goes on from where "
        "it was stopped.",
        allow_abbrev=False,
    )
    train.add_argument(
        "--target", required=True, metavar="PATH_OR_ID", help="folder or Hugging Face id of the target"
    )
    train.add_argument("--out", required=True, type=Path, metavar="PATH", help="folder for the draft")
    train.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="prompts of your own, one per line [a generator of everyday ones]",
    )
    train.add_argument("--minutes", type=float, default=60.0, metavar="N", help="time it takes in all [60]")
    train.add_argument(
        "--size",
        metavar="WIDTHxLAYERS",
        help="shape of the draft, as 192x3 [a third of the target's width, 3 layers]",
    )
    train.add_argument(
        "--from",
        type=Path,
        metavar="FOLDER",
        dest="earlier",
        help="go on from this draft, in its shape [a new one]",
    )
    train.add_argument("--max-tokens", type=int, default=192, metavar="N", help="tokens per answer [192]")
    train.add_argument("--device", default="auto", help="cpu, cuda, cuda:N or auto [auto]")
    train.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads [1]")
    train.add_argument("--seed", type=int, default=0, metavar="N", help="another seed, other prompts [0]")
    return made
