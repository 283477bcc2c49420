"""AdaSD beside llama.cpp, OpenVINO and vLLM on the same weights and prompts, one stream, greedy, on a CPU.

    python -m load_tests.peers [--model FOLDER] [--prompts 4] [--max-tokens 64] [--repeats 1] [--read 512]
                               [--threads 2] [--only NAME ...] [--json FILE] [--page FILE]

Makes an environment for each peer in a cache folder, the first time (load_tests.peers.environments), starts every
contender in a process of its own, and asks them in turn, prompt by prompt. Without ``--model`` it takes the pair
``smollm2``. Answers are timed in the peer's process, reading the prompt included; a prompt of ``--read`` tokens with
one token of answer gives the speed of reading. A peer that cannot be installed or started is named with its reason.
The exit status is 1 if a contender in float32 gives other tokens than ours does.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from adasd.errors import ConfigError
from adasd.pairs.known import resolve_pair
from adasd.text.tokenizer import Tokenizer
from load_tests import record
from load_tests.demo_pair import positive
from load_tests.peers import race
from load_tests.peers.contenders import CONTENDERS, Contender, Program
from load_tests.peers.race import NUM_READ, Asked, PeerResult, Task

PROMPTS = (
    "Hello! What can you help me with?",
    "Explain to a child of ten why the sky is blue.",
    "Write a polite e-mail that moves a meeting from Monday to Thursday.",
    "List five things to do on a rainy weekend, with one sentence each.",
    "Write a Python function that returns the even numbers of a list, and explain it.",
    "Repeat this sentence three times: The quick brown fox jumps over the lazy dog near the old stone bridge.",
    "What is the capital of France, and what is it known for?",
    "Rewrite this more formally: hey, can you send me the numbers for last month? thanks a lot!",
)


COLUMNS = ("contender", "tokens/s", "over ours", "prompt tokens/s", "same tokens", "answers that differ")


def rows(found: Sequence[PeerResult]) -> list[tuple[str, ...]]:
    """The table as texts."""
    return [
        (one.name, "", "", "", "", one.missing)
        if one.missing is not None
        else (
            one.name,
            f"{one.tokens_per_s:.1f}",
            "" if one.over_ours is None else f"{one.over_ours:.2f}",
            f"{one.read_per_s:.0f}",
            "" if one.agrees is None else f"{one.agrees:.0%}",
            "" if one.num_differing is None else str(one.num_differing),
        )
        for one in found
    ]


def page(header: Mapping[str, object], title: str, found: Sequence[PeerResult]) -> str:
    """The table as Markdown, with machine, date and command."""
    lines = [f"# {title}", "", record.headline(header), "", f"`{header['command']}`", ""]
    lines += [f"| {' | '.join(COLUMNS)} |", f"|---{'|--:' * (len(COLUMNS) - 1)}|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows(found))]) + "\n"


def main(arguments: list[str] | None = None, run: Callable[[Program], Asked] | None = None) -> int:
    """Install, start, measure, print, write. ``run`` starts a program in place of a real one."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    header = record.circumstances("peers", arguments, options.threads)
    console = record.console()
    console.print(record.headline(header), highlight=False)
    chosen = [one for one in CONTENDERS if wanted(one, options.only)]
    try:
        folder, draft = (
            (options.model, options.draft)
            if options.model
            else resolve_pair("smollm2", record.ROOT / "models", os.environ, lambda *_: None)
        )
        tokenizer = Tokenizer.load(str(folder))
        prompts = [
            tokenizer.apply_chat_template([{"role": "user", "content": text}])
            for text in PROMPTS[: options.prompts]
        ]
        task = Task(prompts, options.max_tokens, options.repeats, options.read, tokenizer.eos_ids)

        def say(text: str) -> None:
            console.print(text, style="dim")

        with race.running(chosen, folder, draft, options.threads, say, run) as (running, missing):
            found = race.measure(chosen, running, missing, task)
    except ConfigError as error:
        console.print(f"[red]{error}[/red]", highlight=False)
        return 2
    title = f"{folder.name}: one stream, greedy, {options.threads} threads"
    shown = Table(*COLUMNS, title=title)
    for row in rows(found):
        shown.add_row(*row)
    console.print(shown)
    figures = {"model": folder.name, "num_prompts": len(prompts), "max_tokens": options.max_tokens}
    figures |= {
        "num_repeats": options.repeats,
        "num_read": options.read,
        "results": [asdict(one) for one in found],
    }
    if options.json:
        record.write(options.json, header, figures)
    if options.page:
        options.page.write_text(page(header, title, found), encoding="utf-8")
    exact = {one.name for one in chosen if one.exact}
    changed = [one.name for one in found if one.name in exact and one.num_differing]
    if changed:
        console.print(f"[red]in float32, but with other tokens than ours: {', '.join(changed)}[/red]")
    return 1 if changed else 0


def wanted(contender: Contender, only: Sequence[str]) -> bool:
    """Whether a contender is measured: ours in float32 always, others if one of ``only`` is in the name."""
    return (
        contender is CONTENDERS[0] or not only or any(word.lower() in contender.name.lower() for word in only)
    )


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m load_tests.peers", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model", type=Path, help="a Llama's folder [the target of the pair smollm2]")
    parser.add_argument("--draft", type=Path, help="a draft's folder; needed with --model")
    parser.add_argument("--prompts", type=positive, default=4, help=f"of {len(PROMPTS)} prompts [4]")
    parser.add_argument("--max-tokens", type=positive, default=64, help="tokens per answer [64]")
    parser.add_argument("--repeats", type=positive, default=1, help="times that each is answered [1]")
    parser.add_argument(
        "--read", type=positive, default=NUM_READ, help=f"tokens of the prompt that is only read [{NUM_READ}]"
    )
    parser.add_argument("--threads", type=positive, default=2, help="threads per contender [2]")
    parser.add_argument(
        "--only", nargs="+", default=(), metavar="NAME", help="contenders by part of a name [all]"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    parser.add_argument("--page", type=Path, metavar="FILE", help="also write the table as Markdown")
    options = parser.parse_args(arguments)
    if (options.model is None) != (options.draft is None):
        parser.error("--model and --draft go together: give both, or neither")
    return options
