"""Families with one number or date as the answer: dates, units, one-step word problems."""

from __future__ import annotations

import random
from datetime import date, timedelta
from functools import partial

from adasd.evaluate.families import material
from adasd.evaluate.families.ask import Ask, Split, part
from adasd.evaluate.families.judging import last_number, plain


def dates(rng: random.Random, split: Split) -> Ask:
    """A date to write out, or the day before or after one; right if the answer has day, month and year."""
    day = date(1950, 1, 1) + timedelta(days=rng.randrange(36_000))
    form = rng.randrange(3)
    shown, answer = _long(day), day + timedelta(days=form - 1)
    prompt = (
        f"Which date is the day before {shown}?",
        f"Write the date {day.isoformat()} with the name of the month, like 7 July 1990.",
        f"Which date is the day after {shown}?",
    )[form]
    prompt = f"{prompt} Answer with the date only."
    return Ask(prompt, _long(answer), partial(_same_date, answer), (day.isoformat(), form), of_numbers=True)


def _long(day: date) -> str:
    return f"{day.day} {material.MONTHS[day.month - 1]} {day.year}"


def _same_date(day: date, text: str) -> bool:
    month = material.MONTHS[day.month - 1]
    forms = (
        f"{day.day} {month} {day.year}",
        f"{month} {day.day}, {day.year}",
        f"{month} {day.day} {day.year}",
    )
    found = f" {plain(text).replace('.', ' ')} "
    return any(f" {plain(form)} " in found for form in forms)


UNITS = (
    ("meters", "centimeters", 100), ("kilometers", "meters", 1000), ("kilograms", "grams", 1000),
    ("hours", "minutes", 60), ("minutes", "seconds", 60), ("days", "hours", 24), ("weeks", "days", 7),
    ("feet", "inches", 12), ("liters", "milliliters", 1000),
    ("dozens", "pieces", 12), ("centimeters", "millimeters", 10), ("years", "months", 12),
)  # fmt: skip


def units(rng: random.Random, split: Split) -> Ask:
    """A number to convert; right if it is the last number of the answer."""
    large, small, factor = rng.choice(UNITS)
    number = rng.randint(2, 40)
    prompt = f"How many {small} are {number} {large}? Answer with the number."
    return Ask(
        prompt, str(number * factor), partial(last_number, number * factor), (large, number), of_numbers=True
    )


def problem(rng: random.Random, split: Split) -> Ask:
    """A word problem of one step; right if the result is the last number of the answer."""
    who, other = rng.sample(part(material.NAMES, split), 2)
    things = rng.choice(part(material.THINGS, split))
    a, b = rng.randint(12, 60), rng.randint(2, 11)
    told, result = rng.choice(
        (
            (f"{who} has {a} {things} and buys {b} more.", a + b),
            (f"{who} has {a} {things} and gives {b} of them to {other}.", a - b),
            (f"{who} has {b} boxes with {b + 1} {things} in each box.", b * (b + 1)),
            (
                f"{who} has {a} {things}. {other} has {b} {things} more than {who}. Count those of {other}.",
                a + b,
            ),
        )
    )
    prompt = f"{told} How many {things} is that? Show the calculation, then the number."
    return Ask(
        prompt, f"The result is {result}.", partial(last_number, result), (who, other, things, a, b, told)
    )
