"""Workloads: prompts, each with a judge of the answer if there is one."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from adasd.demo.tasks import Task, check, heldout
from adasd.errors import ConfigError
from adasd.evaluate.families.ask import Split, asks
from adasd.evaluate.families.twelve import FAMILIES, FREE_WORDING, SHORT


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt; ``judge`` tells whether a text answers it. None: the answer cannot be judged."""

    group: str  # the task, family or file that it belongs to
    prompt: str
    judge: Callable[[str], bool] | None = None


def demo(num_per_task: int, seed: int = 0) -> list[Question]:
    """Held-out examples that cycle through the demo tasks, so that online learning sees all of them."""
    tasks = [heldout(task, num_per_task, seed) for task in Task]
    return [
        Question(example.task.value, example.prompt, partial(check, example))
        for examples in zip(*tasks, strict=True)
        for example in examples
    ]


def messy(num_per_task: int, seed: int = 0) -> list[Question]:
    """The demo tasks with typing errors: words doubled or swapped. The judges are the same."""
    return [
        replace(item, prompt=_typed(item.prompt, random.Random(f"{seed}:{number}")))
        for number, item in enumerate(demo(num_per_task, seed))
    ]


def _typed(prompt: str, rng: random.Random) -> str:
    """About every eighth word doubled or swapped with the next; numbers and quoted text stay."""
    words = prompt.split(" ")
    for i in range(len(words) - 1):
        if rng.random() < 1 / 8 and words[i].isalpha() and words[i + 1].isalpha():
            if rng.random() < 0.5:
                words[i] = f"{words[i]} {words[i]}"
            else:
                words[i], words[i + 1] = words[i + 1], words[i]
    return " ".join(words)


def families(
    num_per_family: int, seed: int = 0, split: Split = Split.TEST, names: Collection[str] = FAMILIES
) -> list[Question]:
    """Prompts that cycle through the families; the splits share no subject, or else no numbers."""
    by_family = [
        [Question(name, ask.prompt, ask.judge) for ask in asks(name, family, num_per_family, seed, split)]
        for name, family in FAMILIES.items()
        if name in names
    ]
    return [question for questions in zip(*by_family, strict=True) for question in questions]


WORKLOADS: dict[str, Callable[[int, int], list[Question]]] = {
    "demo": demo,
    "messy": messy,
    "dev": partial(families, split=Split.DEV),
    "test": partial(families, split=Split.TEST),
    "short": partial(families, split=Split.TEST, names=SHORT),
    "free": partial(families, split=Split.TEST, names=FREE_WORDING),
}
"""Workloads that come with the library, by name: (questions per task, seed) -> questions."""


def jsonl(path: Path, limit: int | None = None) -> list[Question]:
    """One object per line: ``prompt`` and, if the answer can be judged, ``reference``.

    An answer is correct if it contains the reference, ignoring case and white space. Raises ConfigError that names
    the line that cannot be read.
    """
    items = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the workload {path} cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            items.append(_item(path, number, line))
    if not items:
        raise ConfigError(f"the workload {path} holds no prompt; write one JSON object per line")
    return items[:limit]


def _item(path: Path, number: int, line: str) -> Question:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{path}, line {number}: no JSON ({error})") from error
    prompt = record.get("prompt") if isinstance(record, dict) else None
    reference = record.get("reference") if isinstance(record, dict) else None
    if not isinstance(prompt, str) or not prompt or not isinstance(reference, str | None):
        raise ConfigError(
            f"{path}, line {number}: expected an object with a text 'prompt' and, if the answer can be "
            "judged, a text 'reference'"
        )
    return Question(path.stem, prompt, None if reference is None else partial(holds, reference))


def holds(reference: str, text: str) -> bool:
    """Whether ``text`` contains ``reference``, ignoring case and white space."""
    return _plain(reference) in _plain(text)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
