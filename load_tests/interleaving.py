"""Whose turn it is when several things are compared on one machine.

They alternate prompt by prompt, and who begins changes too, so that what drifts (clock, temperature, other
load) meets all of them alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Turn(NamedTuple):
    """One name has to answer one prompt, in one repeat."""

    repeat: int
    prompt: int
    name: str


def turns(names: Sequence[str], num_prompts: int, num_repeats: int) -> Iterator[Turn]:
    """Every name meets every prompt once per repeat."""
    for repeat in range(num_repeats):
        for prompt in range(num_prompts):
            begin = (repeat + prompt) % len(names)
            for name in [*names[begin:], *names[:begin]]:
                yield Turn(repeat, prompt, name)
