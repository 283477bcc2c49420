"""Contenders side by side: which model files they need, starting them, asking them in turn, their figures."""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from adasd.pairs.known import cache_folder
from load_tests.interleaving import turns
from load_tests.peers import gguf_pair
from load_tests.peers.contenders import Contender, Program
from load_tests.peers.environments import NotInstalled, python_of
from load_tests.peers.peer_process import PeerAnswer, PeerFailed, PeerProcess

NUM_READ = 512
"""Tokens of the prompt that measures reading."""

Say = Callable[[str], object]


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


def files(model: Path, cache: Path, formats: Sequence[str]) -> dict[str, str]:
    """The model as GGUF files of these formats in the cache folder, written once."""
    cache.mkdir(parents=True, exist_ok=True)
    found = {}
    for short in formats:
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
    say: Say,
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


@contextmanager
def running(
    contenders: Sequence[Contender],
    folder: Path,
    draft: Path | None,
    threads: int,
    say: Say,
    run: Callable[[Program], Asked] | None = None,
) -> Iterator[tuple[dict[str, Asked], dict[str, str]]]:
    """``start`` on the model in ``folder``, each program in a process of its own; ``run`` starts one in its place.

    Raises ConfigError if the model cannot be written as a GGUF file.
    """
    home = cache_folder(os.environ)
    words = {word for one in contenders for word in one.program.arguments}
    given = files(folder, home / "gguf", [short for short in gguf_pair.FORMATS if f"{{{short}}}" in words])
    (home / "converted").mkdir(exist_ok=True)
    given |= {"folder": str(folder), "draft": str(draft or ""), "threads": str(threads)}
    given["converted"] = str(home / "converted" / folder.name)
    with ExitStack() as stack:

        def started(program: Program) -> Asked:
            environment = program.environment
            python = python_of(environment, home / "peers") if environment else Path(sys.executable)
            arguments = [word.format(**given) for word in program.arguments]
            return stack.enter_context(PeerProcess(python, program.module, arguments, threads))

        yield start(contenders, run or started, say)


@dataclass(frozen=True)
class Task:
    """What every contender is asked."""

    prompts: Sequence[Sequence[int]]
    max_tokens: int
    repeats: int
    num_read: int = NUM_READ
    eos_ids: frozenset[int] = frozenset()


def measure(
    contenders: Sequence[Contender], running: dict[str, Asked], missing: dict[str, str], task: Task
) -> list[PeerResult]:
    """Ask in turn. One that fails on the way is missing with that reason."""
    modes = {contender.name: contender.mode for contender in contenders}
    answers: dict[str, dict[tuple[int, int], PeerAnswer]] = {name: {} for name in running}
    reading: dict[str, list[float]] = {name: [] for name in running}
    long = [token for prompt in task.prompts for token in prompt] * task.num_read

    def ask(name: str, prompt: Sequence[int], max_tokens: int) -> PeerAnswer | None:
        if name in missing:
            return None
        try:
            return running[name].ask(prompt, max_tokens, modes[name])
        except PeerFailed as error:
            missing[name] = str(error)
            return None

    for name in running:  # uncounted
        ask(name, task.prompts[0], 8)
    for turn in turns(list(running), len(task.prompts), task.repeats):
        answer = ask(turn.name, task.prompts[turn.prompt], task.max_tokens)
        if answer is not None:
            answers[turn.name][turn.repeat, turn.prompt] = answer
    for turn in turns(list(running), 1, task.repeats):
        begin = 7 * turn.repeat  # another prompt each time, so that nothing is reused
        answer = ask(turn.name, long[begin : begin + task.num_read], 1)
        if answer is not None:
            reading[turn.name].append(task.num_read / answer.seconds)
    ours = answers.get(contenders[0].name, {})
    return [
        PeerResult(one.name, missing=missing[one.name])
        if one.name in missing
        else result(one.name, answers[one.name], ours, reading[one.name], task.eos_ids)
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
