"""The four tasks of the demo pair: training examples, held-out examples, and a check of any completion.

An example is one user message and one assistant answer. The wording of worked steps, code and stories is random, as
real model pairs disagree mostly about wording; JSON has one form. A hash of its content (`holdout.py`) decides whether
an example may be used for training, so `heldout` never returns a training example.
"""

import json
import random
from dataclasses import asdict, dataclass
from enum import Enum

from adasd.demo import arithmetic, extraction, functions, sandbox, stories
from adasd.demo.holdout import Split, side

__all__ = ["Example", "Split", "Task", "check", "generate", "heldout"]


class Task(Enum):
    """The kinds of tasks."""

    ARITHMETIC = "arithmetic"
    FUNCTION = "function"
    STORY = "story"
    EXTRACTION = "extraction"


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt, one correct answer, and the reference by which `check` judges other answers.

    `reference`: the number for arithmetic, else a JSON object (function: `Wanted`; story: the slots; extraction: the
    fields).
    """

    task: Task
    prompt: str
    answer: str
    reference: str


def generate(task: Task, rng: random.Random | int, split: Split | str = Split.TRAIN) -> Example:
    """One example of `task` from one side of the split; the same seed gives the same example."""
    source = random.Random(rng) if isinstance(rng, int) else rng
    wanted = Split(split)
    while True:
        key, example = _MAKERS[task](source)
        if side(key) is wanted:
            return example


def heldout(task: Task, n: int, seed: int = 0) -> list[Example]:
    """`n` examples that no training run has seen; a larger `n` only adds examples at the end."""
    rng = random.Random(f"heldout:{task.value}:{seed}")
    return [generate(task, rng, Split.HELD_OUT) for _ in range(n)]


def check(example: Example, completion_text: str) -> bool:
    """Whether the completion solves the example's task, in any wording."""
    if example.task is Task.ARITHMETIC:
        return arithmetic.check(example.reference, completion_text)
    if example.task is Task.EXTRACTION:
        return extraction.check(example.reference, completion_text)
    if example.task is Task.STORY:
        return stories.check(json.loads(example.reference), completion_text)
    wanted = functions.Wanted(**json.loads(example.reference))
    cases = functions.cases(wanted)
    found = sandbox.outputs(functions.code_of(completion_text), wanted.title, [value for value, _ in cases])
    return found == [expected for _, expected in cases]


def _arithmetic(rng: random.Random) -> tuple[tuple[object, ...], Example]:
    steps, cast = arithmetic.draw(rng), arithmetic.cast(rng)
    prompt, answer = arithmetic.prompt(rng, steps, cast), arithmetic.answer(rng, steps, cast)
    return arithmetic.key(steps), Example(Task.ARITHMETIC, prompt, answer, str(steps[-1].after))


def _function(rng: random.Random) -> tuple[tuple[object, ...], Example]:
    wanted = functions.draw(rng)
    prompt, answer = functions.prompt(rng, wanted), functions.answer(rng, wanted)
    return functions.key(wanted), Example(Task.FUNCTION, prompt, answer, json.dumps(asdict(wanted)))


def _story(rng: random.Random) -> tuple[tuple[object, ...], Example]:
    slots = stories.draw(rng)
    prompt, answer = stories.prompt(rng, slots), stories.answer(rng, slots)
    return stories.key(slots), Example(Task.STORY, prompt, answer, json.dumps(slots))


def _extraction(rng: random.Random) -> tuple[tuple[object, ...], Example]:
    record, asked = extraction.draw(rng), extraction.fields(rng)
    answer = extraction.answer(record, asked)
    return extraction.key(record), Example(
        Task.EXTRACTION, extraction.prompt(rng, record, asked), answer, answer
    )


_MAKERS = {
    Task.ARITHMETIC: _arithmetic,
    Task.FUNCTION: _function,
    Task.STORY: _story,
    Task.EXTRACTION: _extraction,
}
