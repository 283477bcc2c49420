"""Word problems of two to four steps, with worked steps in free wording and a last line `#### answer`.

All intermediate values are whole numbers from 2 to 150; sums and differences take up to 40, products and
quotients 2 to 5.
"""

import random
import re
from dataclasses import dataclass

from adasd.demo.wording import phrase, phrases
from adasd.demo.words import ITEMS, NAMES

LARGEST = 150
SMALLEST = 2


@dataclass(frozen=True, slots=True)
class ArithmeticStep:
    """`before <sign> operand = after`; sign is one of `+ - * /`."""

    sign: str
    before: int
    operand: int
    after: int


_OPENING = phrases(
    "<name> has <n> <items>.",
    "<name> {starts|begins} with <n> <items>.",
    "There are <n> <items> in <name>'s {box|bag|basket}.",
)
_EVENTS = {
    "+": phrases(
        "<name> {buys|finds|gets|wins|collects} <n> more.",
        "<friend> {gives|brings|sends} <name> <n> more.",
        "Then <n> more are {added|put in}.",
    ),
    "-": phrases(
        "<name> {loses|sells|uses|breaks} <n>.",
        "<name> {gives|lends|sends} <n> to <friend>.",
        "Then <n> are {taken away|thrown out}.",
    ),
    "*": phrases(
        "Then the {number|pile} grows to <n> times {as many|its size}.",
        "<name> {trades|swaps} them for <n> times as many.",
    ),
    "/": phrases(
        "<name> {shares|splits} them {equally|evenly} among <n> {friends|bags} and keeps one share.",
        "Only one <ordinal> of them {is left|remains}.",
    ),
}
_ORDINAL = {2: "half", 3: "third", 4: "quarter", 5: "fifth"}
_QUESTION = phrases(
    "How many <items> {are there|are left} {now|in the end}?",
    "How many <items> does <name> have {now|in the end}?",
)

_START = phrases(
    "{We start|Start|Let us start|We begin|Begin} with <n> <items>.",
    "{At first|To begin with|At the start} {there are|we have} <n> <items>.",
    "<name> has <n> <items> {at first|to begin with|at the start}.",
)
_LEAD = phrase("{First|Then|Next|After that|Now|So then}")
_WORKED = {
    "+": phrases(
        "<lead>, {add|we add|put in} <n>: <a> + <n> <equals> <c>.",
        "<lead> <n> more {come in|are added|join}: <a> + <n> <equals> <c>.",
        "{Adding|With} <n> more, <a> + <n> <equals> <c>.",
    ),
    "-": phrases(
        "<lead>, {subtract|take away|remove} <n>: <a> - <n> <equals> <c>.",
        "<lead> <n> {go away|are gone|are removed}: <a> - <n> <equals> <c>.",
        "{Without|Taking away} <n>, <a> - <n> <equals> <c>.",
    ),
    "*": phrases(
        "<lead>, {multiply by|take it times} <n>: <a> * <n> <equals> <c>.",
        "{Growing|Multiplying} by <n>, <a> * <n> <equals> <c>.",
    ),
    "/": phrases(
        "<lead>, {divide by|split by} <n>: <a> / <n> <equals> <c>.",
        "{Sharing|Dividing} by <n>, <a> / <n> <equals> <c>.",
    ),
}
_EQUALS = phrase("{=|=|makes|gives|which gives|is}")
_CLOSING = phrases(
    "{So|Therefore|In the end|This means} {the answer is|we have|we get} <c>.",
    "{So|Therefore|In the end} <name> has <c> <items>.",
    "{So|Hence} <c> <items> {are left|remain}.",
)


def draw(rng: random.Random) -> tuple[ArithmeticStep, ...]:
    """Two to four steps, each starting from the value before it."""
    while True:
        value = rng.randint(3, 60)
        steps: list[ArithmeticStep] = []
        for _ in range(rng.choice((2, 2, 3, 3, 4))):
            step = _step(rng, value)
            steps.append(step)
            value = step.after
        return tuple(steps)


def _step(rng: random.Random, value: int) -> ArithmeticStep:
    while True:
        sign = rng.choice("++--*/")
        operand = rng.randint(2, 40) if sign in "+-" else rng.randint(2, 5)
        if sign == "/" and value % operand:
            continue
        after = {"+": value + operand, "-": value - operand, "*": value * operand, "/": value // operand}[
            sign
        ]
        if SMALLEST <= after <= LARGEST:
            return ArithmeticStep(sign, value, operand, after)


def key(steps: tuple[ArithmeticStep, ...]) -> tuple[object, ...]:
    """The numbers and signs, which decide the side of the split."""
    return ("arithmetic", steps[0].before, *((step.sign, step.operand) for step in steps))


def prompt(rng: random.Random, steps: tuple[ArithmeticStep, ...], slots: dict[str, str]) -> str:
    """The story and its question."""
    sentences = [rng.choice(_OPENING).say(rng, slots | {"n": str(steps[0].before)})]
    for step in steps:
        numbers = {"n": str(step.operand), "ordinal": _ORDINAL.get(step.operand, "")}
        sentences.append(rng.choice(_EVENTS[step.sign]).say(rng, slots | numbers))
    sentences.append(rng.choice(_QUESTION).say(rng, slots))
    return " ".join(sentences)


def answer(rng: random.Random, steps: tuple[ArithmeticStep, ...], slots: dict[str, str]) -> str:
    """The worked steps, one per line, and the line of the result."""
    lines = [rng.choice(_START).say(rng, slots | {"n": str(steps[0].before)})]
    for step in steps:
        numbers = {
            "a": str(step.before),
            "n": str(step.operand),
            "c": str(step.after),
            "lead": _LEAD.say(rng),
            "equals": _EQUALS.say(rng),
        }
        lines.append(rng.choice(_WORKED[step.sign]).say(rng, numbers))
    result = str(steps[-1].after)
    lines.append(rng.choice(_CLOSING).say(rng, slots | {"c": result}))
    return "\n".join(lines) + f"\n#### {result}"


def cast(rng: random.Random) -> dict[str, str]:
    """Random names and items for the slots."""
    name, friend = rng.sample(NAMES, 2)
    return {"name": name, "friend": friend, "items": rng.choice(ITEMS)}


def check(reference: str, completion: str) -> bool:
    """Whether the last line is `#### ` followed by the number in `reference`."""
    lines = completion.strip().splitlines()
    found = re.fullmatch(r"####\s*(-?\d+)", lines[-1].strip()) if lines else None
    return found is not None and found.group(1) == reference
