"""The held-out demo prompts that benchmarks send, and the check of their answers."""

from __future__ import annotations

from functools import cache

from adasd.demo.tasks import Example, Task, check, heldout


def examples(num_prompts: int) -> list[Example]:
    """The first held-out examples, taken from all tasks in turn."""
    per_task = -(-num_prompts // len(Task))
    by_task = [heldout(task, per_task) for task in Task]
    return [example for same_place in zip(*by_task, strict=True) for example in same_place][:num_prompts]


@cache
def is_right(example: Example, text: str) -> bool:
    """Whether the text solves the task; cached, since code is judged by running it."""
    return check(example, text)
