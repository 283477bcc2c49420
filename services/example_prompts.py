"""Prompts that a served pair can answer: the playground offers them, and ``adasd serve`` prints the first one."""

from __future__ import annotations

from pathlib import PurePath

DEMO = (
    "Give me linear in Python: it takes a number by 19 and adds 15.",
    "A short story, please: Kai and Max, the castle, a key.",
    "Gus starts with 10 stamps. Gus breaks 6. Ada brings Gus 13 more. How many stamps does Gus have in the end?",
    "Noa from Boston ordered 42 stamps. Give city and name as JSON.",
)
"""One of each task of the demo pair; it answers nothing else."""

GENERAL = (
    "What is speculative decoding? Answer in three sentences.",
    "Write a Python function that says whether a word is a palindrome.",
    "List three ways to cook potatoes.",
)
"""For models that talk about anything."""


def examples_of(target: str) -> tuple[str, ...]:
    """Prompts for the model in this folder or of this id."""
    return DEMO if PurePath(target).parts[-2:] == ("demo", "target") else GENERAL
