"""The order of measurements when several contenders are compared on one machine.

They alternate prompt by prompt, and the first one changes too, so that drift (clock, temperature, other load) affects
all of them equally.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Turn(NamedTuple):
    """One contender answers one prompt, in one repeat."""

    repeat: int
    prompt: int
    name: str


def turns(names: Sequence[str], num_prompts: int, num_repeats: int) -> Iterator[Turn]:
    """Every contender gets every prompt once per repeat."""
    for repeat in range(num_repeats):
        for prompt in range(num_prompts):
            begin = (repeat + prompt) % len(names)
            for name in [*names[begin:], *names[:begin]]:
                yield Turn(repeat, prompt, name)
