"""Small Python functions: a request, several solutions, and inputs to test them on."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from adasd.demo.wording import Phrase, phrase, phrases


@dataclass(frozen=True, slots=True)
class FunctionFamily:
    """Functions that differ in two whole numbers, <a> and <b>.

    `bodies` are interchangeable; `<x>`, `<v>` and `<r>` in them are free variable names (parameter, loop
    variable, result).
    """

    name: str
    wish: Phrase
    bodies: tuple[Phrase, ...]
    parameters: tuple[str, ...]
    inputs: tuple[object, ...]
    truth: Callable[[int, int], Callable[..., object]]
    titles: tuple[str, ...]
    ordered: bool = False  # <a> must be below <b>


_LISTS: tuple[object, ...] = (
    [],
    [1],
    [3, 8, 12, 20],
    [30, 7, 15, 15, 2, 40],
    list(range(0, 60, 3)),
    [-4, 5, -9, 60],
)
_NUMBERS: tuple[object, ...] = (0, 1, 2, 7, 13, 20, 31, 60, -5)
_TEXTS: tuple[object, ...] = (
    "",
    "a",
    "hello",
    "abcdefghijklmnopqrstuvwxyz0123456789",
    "speculative decoding",
)
_LIST_NAMES = ("numbers", "values", "items", "xs", "data")
_NUMBER_NAMES = ("x", "n", "value", "number")
_TEXT_NAMES = ("text", "s", "word")

FAMILIES: tuple[FunctionFamily, ...] = (
    FunctionFamily(
        "linear",
        phrase("{multiplies|takes} a number {by|times} <a> and adds <b>"),
        phrases(
            "    return <x> * <a> + <b>",
            "    return <b> + <a> * <x>",
            "    <r> = <x> * <a>\n    return <r> + <b>",
            "    <r> = <x> * <a>\n    <r> += <b>\n    return <r>",
        ),
        _NUMBER_NAMES,
        _NUMBERS,
        lambda a, b: lambda x: x * a + b,
        ("scale", "convert", "transform", "linear"),
    ),
    FunctionFamily(
        "sum_above",
        phrase("adds up {the|all} numbers above <a> in a list, plus <b>"),
        phrases(
            "    return sum(<v> for <v> in <x> if <v> > <a>) + <b>",
            "    <r> = <b>\n    for <v> in <x>:\n"
            "        if <v> > <a>:\n            <r> += <v>\n    return <r>",
            "    <r> = [<v> for <v> in <x> if <v> > <a>]\n    return sum(<r>) + <b>",
        ),
        _LIST_NAMES,
        _LISTS,
        lambda a, b: lambda x: sum(v for v in x if v > a) + b,
        ("sum_above", "add_large", "total_above"),
    ),
    FunctionFamily(
        "count_between",
        phrase("counts {the|all} numbers from <a> to <b> in a list"),
        phrases(
            "    return sum(1 for <v> in <x> if <a> <= <v> <= <b>)",
            "    <r> = 0\n    for <v> in <x>:\n"
            "        if <a> <= <v> <= <b>:\n            <r> += 1\n    return <r>",
            "    <r> = [<v> for <v> in <x> if <a> <= <v> <= <b>]\n    return len(<r>)",
        ),
        _LIST_NAMES,
        _LISTS,
        lambda a, b: lambda x: sum(a <= v <= b for v in x),
        ("count_between", "count_range", "how_many"),
        ordered=True,
    ),
    FunctionFamily(
        "clamp",
        phrase("{keeps|clamps} a number between <a> and <b>"),
        phrases(
            "    return max(<a>, min(<b>, <x>))",
            "    return min(<b>, max(<a>, <x>))",
            "    if <x> < <a>:\n        return <a>\n    if <x> > <b>:\n        return <b>\n    return <x>",
        ),
        _NUMBER_NAMES,
        _NUMBERS,
        lambda a, b: lambda x: max(a, min(b, x)),
        ("clamp", "limit", "bound"),
        ordered=True,
    ),
    FunctionFamily(
        "slice",
        phrase("{returns|gives} the {characters|letters} of a text from position <a> {up |}to <b>"),
        phrases(
            "    return <x>[<a>:<b>]",
            "    <r> = <x>[<a>:<b>]\n    return <r>",
            "    <r> = <x>[:<b>]\n    return <r>[<a>:]",
        ),
        _TEXT_NAMES,
        _TEXTS,
        lambda a, b: lambda x: x[a:b],
        ("cut", "part", "middle", "take_part"),
        ordered=True,
    ),
    FunctionFamily(
        "map_filter",
        phrase("{drops|removes} {the|all} numbers below <a> from a list and multiplies the rest by <b>"),
        phrases(
            "    return [<v> * <b> for <v> in <x> if <v> >= <a>]",
            "    <r> = []\n    for <v> in <x>:\n"
            "        if <v> >= <a>:\n            <r>.append(<v> * <b>)\n    return <r>",
        ),
        _LIST_NAMES,
        _LISTS,
        lambda a, b: lambda x: [v * b for v in x if v >= a],
        ("keep_and_scale", "filter_scale", "grow_large"),
    ),
    FunctionFamily(
        "divisible",
        phrase("{tells|checks} whether a number is divisible by <a> and {above|greater than} <b>"),
        phrases(
            "    return <x> % <a> == 0 and <x> > <b>",
            "    return <x> > <b> and <x> % <a> == 0",
            "    if <x> % <a> != 0:\n        return False\n    return <x> > <b>",
        ),
        _NUMBER_NAMES,
        (*_NUMBERS, *(k * m for k in (2, 3, 4, 5, 6, 7, 8, 9, 11, 13) for m in (2, 5, 10))),
        lambda a, b: lambda x: x % a == 0 and x > b,
        ("is_match", "check_number", "divides"),
    ),
)
_BY_NAME = {family.name: family for family in FAMILIES}

_REQUEST = phrases(
    "Write a Python function <title> that <wish>.",
    "{Define|Write|Give me} <title> in Python: it <wish>.",
    "I need a Python function <title> which <wish>.",
)
_LEAD = phrase(
    "{Here is the function:|Here you go:|Sure, here it is:"
    "|This does it:|A short version:|This function does it:|}"
)
_CLOSE = phrase(
    "{{It can be called as|Call it with|Use it like this:} `<title>(<x>)`."
    "|That is all.|It needs no imports.|||}"
)
_COMMENT = phrase("{    # {simple|short} {and clear|enough}\n|    # one {step|pass} is enough\n||||}")
_RESULT_NAMES = ("result", "total", "out", "answer", "res")
_LOOP_NAMES = ("v", "item", "i", "y")


@dataclass(frozen=True, slots=True)
class Wanted:
    """One function to write: its family, the two numbers and its required name."""

    family: str
    a: int
    b: int
    title: str


def draw(rng: random.Random) -> Wanted:
    """A family, its numbers (2 to 30) and a name."""
    family = rng.choice(FAMILIES)
    a, b = rng.randint(2, 30), rng.randint(2, 30)
    if family.ordered:
        a, b = (min(a, b), max(a, b)) if a != b else (a, a + 1)
    return Wanted(family.name, a, b, rng.choice(family.titles))


def key(wanted: Wanted) -> tuple[object, ...]:
    """Family and numbers, which decide the side of the split."""
    return ("function", wanted.family, wanted.a, wanted.b)


def prompt(rng: random.Random, wanted: Wanted) -> str:
    """The request in one sentence."""
    slots = {"a": str(wanted.a), "b": str(wanted.b)}
    wish = _BY_NAME[wanted.family].wish.say(rng, slots)
    return rng.choice(_REQUEST).say(rng, {"title": wanted.title, "wish": wish})


def answer(rng: random.Random, wanted: Wanted) -> str:
    """An optional lead-in, the function in a fenced block, and an optional closing phrase."""
    family = _BY_NAME[wanted.family]
    slots = {
        "title": wanted.title,
        "a": str(wanted.a),
        "b": str(wanted.b),
        "x": rng.choice(family.parameters),
        "v": rng.choice(_LOOP_NAMES),
        "r": rng.choice(_RESULT_NAMES),
    }
    code = (
        f"def {wanted.title}({slots['x']}):\n" + _COMMENT.say(rng) + rng.choice(family.bodies).say(rng, slots)
    )
    parts = (_LEAD.say(rng), f"```python\n{code}\n```", _CLOSE.say(rng, slots))
    return "\n".join(part for part in parts if part)


def code_of(completion: str) -> str:
    """The source in the first fenced block; without a fence, everything from the first `def` on."""
    if "```" in completion:
        block = completion.split("```")[1]
        return block.removeprefix("python").strip("\n")
    start = completion.find("def ")
    return completion[start:] if start >= 0 else ""


def cases(wanted: Wanted) -> tuple[tuple[object, object], ...]:
    """Pairs of an input and its expected output."""
    family = _BY_NAME[wanted.family]
    truth = family.truth(wanted.a, wanted.b)
    near = (
        wanted.a - 1,
        wanted.a,
        wanted.a + 1,
        wanted.b - 1,
        wanted.b,
        wanted.b + 1,
        10 * wanted.a,
        wanted.a * 31,
    )
    inputs: tuple[object, ...] = family.inputs
    if family.parameters is _NUMBER_NAMES:
        inputs += near
    elif family.parameters is _LIST_NAMES:
        inputs += (list(near),)
    return tuple((value, truth(value)) for value in inputs)
