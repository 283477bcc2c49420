"""AdaSD beside llama.cpp, OpenVINO and vLLM on the same weights and prompts, one stream, greedy, on a CPU.

    python -m load_tests.peers [--model FOLDER] [--prompts 4] [--max-tokens 64] [--repeats 1] [--threads 2]
                               [--only NAME ...] [--json FILE] [--page FILE]

Makes an environment for each peer in a cache folder, the first time (load_tests.peers.environments), starts every
contender in a process of its own, and asks them in turn, prompt by prompt. Without ``--model`` it takes the pair
``smollm2``. Answers are timed in the peer's process, reading the prompt included; a prompt of 512 tokens with one token
of answer gives the speed of reading. A peer that cannot be installed or started is named with its reason. The exit
status is 1 if a contender in float32 gives other tokens than ours does.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from rich.table import Table

from adasd.errors import ConfigError
from adasd.pairs.known import cache_folder, resolve_pair
from adasd.text.tokenizer import Tokenizer
from load_tests import record
from load_tests.demo_pair import positive
from load_tests.interleaving import turns
from load_tests.peers import gguf_pair
from load_tests.peers.contenders import CONTENDERS, Contender, Program
from load_tests.peers.environments import NotInstalled, python_of
from load_tests.peers.peer_process import PeerAnswer, PeerFailed, PeerProcess

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
NUM_READ = 512
"""Tokens of the prompt that measures reading."""


class Asked(Protocol):
    """A running contender."""

    def ask(self, prompt: Sequence[int], max_tokens: int, mode: str = "") -> PeerAnswer: ...


@dataclass(frozen=True)
class PeerResult:
    """One contender's figures; without any, ``missing`` says why."""

    name: str
    tokens_per_s: float | None = None  # of answers, reading the prompt included
    over_ours: float | None = None
    read_per_s: float | None = None  # prompt tokens
    agrees: float | None = None  # share of the tokens before the first that differs from ours
    num_differing: int | None = None  # answers
    missing: str | None = None


def files(model: Path, cache: Path) -> dict[str, str]:
    """The model as GGUF files in the cache folder, written once."""
    cache.mkdir(parents=True, exist_ok=True)
    found = {}
    for short in gguf_pair.FORMATS:
        file = cache / f"{model.name}-{short}.gguf"
        if not file.is_file():
            half = file.with_suffix(".half")
            gguf_pair.write(str(model), half, short)
            half.rename(file)
        found[short] = str(file)
    return found


def start(
    contenders: Sequence[Contender],
    run: Callable[[Program], Asked],
    say: Callable[[str], object],
) -> tuple[dict[str, Asked], dict[str, str]]:
    """The running contenders by name, and why the others do not run. Contenders share a program."""
    programs: dict[Program, Asked | str] = {}
    running, missing = {}, {}
    for contender in contenders:
        if contender.program not in programs:
            say(f"starting {contender.name}")
            try:
                programs[contender.program] = run(contender.program)
            except (NotInstalled, PeerFailed, OSError) as error:
                programs[contender.program] = str(error)
        found = programs[contender.program]
        if isinstance(found, str):
            missing[contender.name] = found
        else:
            running[contender.name] = found
    return running, missing


def measure(
    contenders: Sequence[Contender],
    running: dict[str, Asked],
    missing: dict[str, str],
    prompts: Sequence[Sequence[int]],
    options: argparse.Namespace,
    eos_ids: frozenset[int],
) -> list[PeerResult]:
    """Ask in turn. One that fails on the way is missing with that reason."""
    modes = {contender.name: contender.mode for contender in contenders}
    answers: dict[str, dict[tuple[int, int], PeerAnswer]] = {name: {} for name in running}
    reading: dict[str, list[float]] = {name: [] for name in running}
    long = [token for prompt in prompts for token in prompt] * NUM_READ

    def ask(name: str, prompt: Sequence[int], max_tokens: int) -> PeerAnswer | None:
        if name in missing:
            return None
        try:
            return running[name].ask(prompt, max_tokens, modes[name])
        except PeerFailed as error:
            missing[name] = str(error)
            return None

    for name in running:  # uncounted
        ask(name, prompts[0], 8)
    for turn in turns(list(running), len(prompts), options.repeats):
        answer = ask(turn.name, prompts[turn.prompt], options.max_tokens)
        if answer is not None:
            answers[turn.name][turn.repeat, turn.prompt] = answer
    for turn in turns(list(running), 1, options.repeats):
        begin = 7 * turn.repeat  # another prompt each time, so that nothing is reused
        answer = ask(turn.name, long[begin : begin + NUM_READ], 1)
        if answer is not None:
            reading[turn.name].append(NUM_READ / answer.seconds)
    ours = answers.get(contenders[0].name, {})
    return [
        PeerResult(one.name, missing=missing[one.name])
        if one.name in missing
        else result(one.name, answers[one.name], ours, reading[one.name], eos_ids)
        for one in contenders
    ]


def result(
    name: str,
    answers: Mapping[tuple[int, int], PeerAnswer],
    ours: Mapping[tuple[int, int], PeerAnswer],
    reading: Sequence[float],
    eos_ids: frozenset[int],
) -> PeerResult:
    """The figures of a contender that gave every answer."""

    def rate(of: Mapping[tuple[int, int], PeerAnswer]) -> float:
        return sum(len(one.tokens) for one in of.values()) / sum(one.seconds for one in of.values())

    def words(answer: PeerAnswer) -> tuple[int, ...]:
        return tuple(token for token in answer.tokens if token not in eos_ids)

    shares = [same_share(words(one), words(ours[at])) for at, one in answers.items() if at in ours]
    return PeerResult(
        name,
        round(rate(answers), 1),
        round(rate(answers) / rate(ours), 3) if ours else None,
        round(statistics.median(reading), 0),
        round(statistics.fmean(shares), 3) if shares else None,
        sum(share < 1 for share in shares) if shares else None,
    )


def same_share(tokens: Sequence[int], others: Sequence[int]) -> float:
    """Length of the common prefix over the longer length; 1 for equal sequences."""
    longest = max(len(tokens), len(others))
    same = next((i for i, (a, b) in enumerate(zip(tokens, others, strict=False)) if a != b), None)
    return (min(len(tokens), len(others)) if same is None else same) / longest if longest else 1.0


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
    home = cache_folder(os.environ)
    try:
        models = record.ROOT / "models"
        folder, draft = (
            resolve_pair("smollm2", models, os.environ, lambda *_: None)
            if not options.model
            else (
                options.model,
                options.draft,
            )
        )
        given = {"folder": str(folder), "draft": str(draft), "threads": str(options.threads)}
        given |= files(folder, home / "gguf")
        (home / "converted").mkdir(exist_ok=True)
        given["converted"] = str(home / "converted" / folder.name)
    except ConfigError as error:
        console.print(f"[red]{error}[/red]", highlight=False)
        return 2
    tokenizer = Tokenizer.load(str(folder))
    prompts = [
        tokenizer.apply_chat_template([{"role": "user", "content": text}])
        for text in PROMPTS[: options.prompts]
    ]
    chosen = [one for one in CONTENDERS if wanted(one, options.only)]
    with ExitStack() as stack:

        def started(program: Program) -> Asked:
            environment = program.environment
            python = python_of(environment, home / "peers") if environment else Path(sys.executable)
            words = [word.format(**given) for word in program.arguments]
            return stack.enter_context(PeerProcess(python, program.module, words, options.threads))

        running, missing = start(chosen, run or started, lambda text: console.print(text, style="dim"))
        found = measure(chosen, running, missing, prompts, options, tokenizer.eos_ids)
    title = f"{folder.name}: one stream, greedy, {options.threads} threads"
    shown = Table(*COLUMNS, title=title)
    for row in rows(found):
        shown.add_row(*row)
    console.print(shown)
    figures = {"model": folder.name, "num_prompts": len(prompts), "max_tokens": options.max_tokens}
    figures |= {
        "num_repeats": options.repeats,
        "num_read": NUM_READ,
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
