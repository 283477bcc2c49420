"""The family of free wording: a short story with three required words."""

from __future__ import annotations

import random
from functools import partial

from adasd.evaluate.families import material
from adasd.evaluate.families.ask import Ask, Split, part
from adasd.evaluate.families.judging import says


def story(rng: random.Random, split: Split) -> Ask:
    """A story of two or three sentences; right if it has all three words."""
    words = tuple(
        rng.choice(part(kind, split)) for kind in (material.ANIMALS, material.OBJECTS, material.PLACES)
    )
    prompt = f"Write a story of two sentences about a {words[0]}. Use the words {words[0]}, {words[1]} and {words[2]}."
    answer = f"A {words[0]} found the {words[1]} in the {words[2]}. It went home."
    return Ask(prompt, answer, partial(_all, words), words)


def _all(words: tuple[str, ...], text: str) -> bool:
    return all(says(word, text) or says(f"{word}s", text) for word in words)
