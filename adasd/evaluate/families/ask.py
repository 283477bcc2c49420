"""One prompt of a family, and the split into development and test."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from adasd.errors import ConfigError

Word = TypeVar("Word")


class Split(StrEnum):
    """Constants are chosen on DEV; figures that are published come from TEST."""

    DEV = "dev"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Ask:
    """A prompt, a right answer, the check of any answer, and what the prompt is about without its wording."""

    prompt: str
    answer: str  # one that is right; the judge accepts others too
    judge: Callable[[str], bool]
    key: tuple[object, ...]
    of_numbers: bool = False  # the key holds numbers alone, so its hash decides the split


Family = Callable[[random.Random, Split], Ask]
"""Draws one prompt with words of that split."""

PATIENCE = 1000
"""Draws without a new prompt after which a family counts as exhausted."""


def part(words: Sequence[Word], split: Split) -> list[Word]:
    """The words of a list that belong to a split: every third to DEV, the others to TEST."""
    return [word for at, word in enumerate(words) if (at % 3 == 1) == (split is Split.DEV)]


def side(key: tuple[object, ...]) -> Split:
    """The split of a key, by a hash of its text: a third is DEV."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return Split.DEV if int.from_bytes(digest, "big") % 3 == 0 else Split.TEST


def asks(name: str, family: Family, num: int, seed: int, split: Split) -> list[Ask]:
    """``num`` distinct prompts of one split; a larger ``num`` only adds prompts at the end.

    Raises ConfigError if the family has fewer.
    """
    rng = random.Random(f"{name}:{seed}:{split}")
    found: dict[str, Ask] = {}
    waited = 0
    while len(found) < num:
        drawn, waited = family(rng, split), waited + 1
        if drawn.prompt not in found and not (drawn.of_numbers and side(drawn.key) is not split):
            found[drawn.prompt], waited = drawn, 0
        if waited > PATIENCE:
            raise ConfigError(
                f"family {name!r} has {len(found)} different prompts in split {split}, not {num}"
            )
    return list(found.values())
