"""Families that change a given text: correct an error, sort numbers, rewrite a list, repair code."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial

from adasd.demo import sandbox
from adasd.demo.functions import code_of
from adasd.evaluate.families import material
from adasd.evaluate.families.ask import Ask, Split, part
from adasd.evaluate.families.judging import in_order, numbers, plain


def copyedit(rng: random.Random, split: Split) -> Ask:
    """Two sentences with one doubled word and two swapped letters; right if the corrected text is in the answer."""
    sentences = rng.sample(part(material.SENTENCES, split), 2)
    right = ". ".join(sentences) + "."
    words = right.split(" ")
    doubled, swapped = rng.sample(
        [at for at, word in enumerate(words) if len(word) > 4 and word.isalpha()], 2
    )
    words[swapped] = _swap(words[swapped])
    words[doubled] = f"{words[doubled]} {words[doubled]}"
    prompt = (
        "One word of this text is doubled and one is misspelled. Write the text without the two errors and change "
        f"nothing else.\n{' '.join(words)}"
    )
    return Ask(prompt, right, partial(_holds, right), (*sentences, doubled, swapped))


def _swap(word: str) -> str:
    """The word with its second letter and the next other one swapped."""
    at = next((at for at in range(1, len(word) - 1) if word[at] != word[at + 1]), 1)
    return f"{word[:at]}{word[at + 1]}{word[at]}{word[at + 2 :]}"


def _holds(right: str, text: str) -> bool:
    return plain(right) in plain(text)


def sorting(rng: random.Random, split: Split) -> Ask:
    """Five or six numbers; right if they stand in the answer in order."""
    values = rng.sample(range(2, 99), rng.choice((5, 6)))
    if values == sorted(values):
        values.reverse()
    prompt = (
        f"Sort these numbers from smallest to largest: {', '.join(map(str, values))}. Write only the list."
    )
    answer = ", ".join(map(str, sorted(values)))
    return Ask(prompt, answer, partial(_sorted, sorted(values)), tuple(values), of_numbers=True)


def _sorted(expected: Sequence[int], text: str) -> bool:
    return in_order(expected, numbers(text))


def rewriting(rng: random.Random, split: Split) -> Ask:
    """A list in one line; right if the answer has one numbered line per entry, in order."""
    foods = rng.sample(part(material.FOODS, split), 5)
    prompt = f"Rewrite this list as a numbered list, one item per line: {', '.join(foods)}."
    answer = "\n".join(f"{at}. {food}" for at, food in enumerate(foods, 1))
    return Ask(prompt, answer, partial(_numbered, foods), tuple(foods))


def _numbered(expected: Sequence[str], text: str) -> bool:
    wanted = [f"{at}. {food}" for at, food in enumerate(expected, 1)]
    return in_order(wanted, [plain(line).rstrip(".") for line in text.splitlines() if line.strip()])


BUGS: tuple[tuple[str, str, str, Callable[[int, int, int], object]], ...] = (
    ("return {a} - x * {b}", "return {a} + x * {b}", "x times {b}, plus {a}", lambda a, b, x: a + x * b),
    ("return x * {a} + {b}", "return x * {a} - {b}", "x times {a}, minus {b}", lambda a, b, x: x * a - b),
    ("return min(x, {a}) + {b}", "return max(x, {a}) + {b}", "the larger of x and {a}, plus {b}",
     lambda a, b, x: max(x, a) + b),
    ("return x > {a}", "return x < {a}", "whether x is less than {a}", lambda a, b, x: x < a),
    ("return abs(x) - {a}", "return abs(x - {a})", "the distance between x and {a}", lambda a, b, x: abs(x - a)),
    ("return x + {a} * {b}", "return (x + {a}) * {b}", "the sum of x and {a}, times {b}",
     lambda a, b, x: (x + a) * b),
)  # fmt: skip
"""Wrong line, right line, what the function should return, and its result."""


def repair(rng: random.Random, split: Split) -> Ask:
    """A two-line function with one error; right if the function of the answer returns what it should."""
    at, a, b = rng.randrange(len(BUGS)), rng.randint(2, 30), rng.randint(2, 30)
    wrong, right, told, truth = BUGS[at]
    name = f"f{a}"
    prompt = (
        f"This function should return {told.format(a=a, b=b)}, but it has an error. Write the corrected function.\n"
        f"def {name}(x):\n    {wrong.format(a=a, b=b)}"
    )
    inputs = [-3, 0, 1, a - 1, a, a + 1, 77]
    expected = [truth(a, b, x) for x in inputs]
    answer = f"def {name}(x):\n    {right.format(a=a, b=b)}"
    return Ask(
        prompt, answer, partial(_runs, name, inputs, expected), (told.format(a=a, b=b),), of_numbers=True
    )


def _runs(name: str, inputs: Sequence[int], expected: Sequence[object], text: str) -> bool:
    return sandbox.outputs(code_of(text), name, inputs) == list(expected)
