"""Extraction of two or three fields of a sentence, as JSON in one fixed form."""

import json
import random

from adasd.demo.wording import phrases
from adasd.demo.words import CITIES, ITEMS, NAMES

FIELDS = ("name", "city", "count", "item")

_SENTENCE = phrases(
    "<name> from <city> {bought|sold|ordered} <count> <item>{| today| last week}.",
    "{Yesterday|On Monday|Last week} <name> {sent|carried|took} <count> <item> to <city>.",
    "In <city>, <name> {counted|packed|found} <count> <item>.",
    "<count> <item> {arrived|were left} in <city> for <name>.",
)
_REQUEST = phrases(
    "Extract <fields> as JSON: <sentence>",
    "Give me JSON with <fields>. Text: <sentence>",
    "<sentence> {Return|Give} <fields> as JSON.",
)


def draw(rng: random.Random) -> dict[str, str | int]:
    """One record with all four fields."""
    return {
        "name": rng.choice(NAMES),
        "city": rng.choice(CITIES),
        "count": rng.randint(2, 60),
        "item": rng.choice(ITEMS),
    }


def key(record: dict[str, str | int]) -> tuple[object, ...]:
    """The four values, which decide the side of the split."""
    return ("extraction", *(record[field] for field in FIELDS))


def fields(rng: random.Random) -> tuple[str, ...]:
    """Two or three fields to extract, in random order."""
    return tuple(rng.sample(FIELDS, rng.choice((2, 3))))


def prompt(rng: random.Random, record: dict[str, str | int], asked: tuple[str, ...]) -> str:
    """The sentence and the fields to extract from it."""
    sentence = rng.choice(_SENTENCE).say(rng, {field: str(value) for field, value in record.items()})
    listed = ", ".join(asked[:-1]) + " and " + asked[-1]
    return rng.choice(_REQUEST).say(rng, {"sentence": sentence, "fields": listed})


def answer(record: dict[str, str | int], asked: tuple[str, ...]) -> str:
    """The JSON object, with the fields in the order of the prompt."""
    return json.dumps({field: record[field] for field in asked})


def check(reference: str, completion: str) -> bool:
    """Whether the completion is a JSON value equal to the one in `reference`."""
    try:
        return bool(json.loads(completion.strip()) == json.loads(reference))
    except ValueError:
        return False
