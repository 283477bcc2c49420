"""Short stories from a grammar: five sentences, each with its own role.

The prompt names two characters, a place and an object. A story is correct if the grammar allows each of its sentences
for its role, with these four words in their slots.
"""

import random
import re

from adasd.demo.wording import Phrase, phrases
from adasd.demo.words import NAMES

PLACES = (
    "forest",
    "garden",
    "castle",
    "harbor",
    "village",
    "desert",
    "library",
    "market",
    "valley",
    "island",
)
OBJECTS = (
    "lamp",
    "drum",
    "kite",
    "crown",
    "clock",
    "mirror",
    "boat",
    "flute",
    "map",
    "ring",
    "basket",
    "key",
)

_REQUEST = phrases(
    "{Write|Tell me} a {short |}story {about|with} <hero> and <friend> in the <place> with a <object>.",
    "{Write|Tell} a {short |}story set in the <place>. {Use|It needs} <hero>, <friend> and a <object>.",
    "A {short |}story, please: <hero> and <friend>, the <place>, a <object>.",
)
_PARTS: tuple[tuple[Phrase, ...], ...] = (
    phrases(
        "{Once upon a time|Long ago|One fine day|Many years ago|One morning},"
        " <hero> {lived|walked|wandered|played} in the {old |quiet |green |}<place>.",
        "<hero> {lived in|loved|came to|knew} the {old |quiet |green |}<place>.",
    ),
    phrases(
        "{There|One day} {our hero|the child} {found|saw|discovered|picked up} a"
        " {small|golden|broken|strange|shiny} <object>.",
        "{Under a tree|Behind a wall|By the path|Near a stone} {lay|stood|waited} a"
        " {small|golden|broken|strange|shiny} <object>.",
        "{All day long|Every night} <hero> {dreamed of|looked for|thought about} a"
        " {small|golden|strange|shiny} <object>.",
    ),
    phrases(
        "{But|Then|Suddenly} {a storm came|it grew dark|the wind rose|rain fell} and the <object>"
        " {was lost|was gone|fell down|rolled away}.",
        "{But|Sadly,} nobody {knew|could say|remembered} {how it worked|whose it was|where it came from}.",
        "{But|Then|Suddenly} a {fox|crow|giant|thief} {took|stole|wanted} the <object>.",
    ),
    phrases(
        "{Luckily|Happily|At last}, <friend> {came|ran|hurried} to help{| at once| with a smile}.",
        "<friend> {had|brought|offered} a {clever|simple|brave|bold} {plan|idea}{| and a smile| and a rope}.",
        "{Together with|With the help of} <friend>, {all went well|the way was clear|the search began}.",
    ),
    phrases(
        "{In the end|At last|That evening}, <hero> and <friend>"
        " {were happy|went home|laughed|danced|sang} together.",
        "{From that day on|Ever after}, {they|the two} {were friends|shared everything|told this story}.",
        "{And so|Thus} the <object> {stayed|remained|was safe} in the <place>{| for ever| for good}.",
    ),
)


def draw(rng: random.Random) -> dict[str, str]:
    """The four constraints of a story, by slot."""
    hero, friend = rng.sample(NAMES, 2)
    return {"hero": hero, "friend": friend, "place": rng.choice(PLACES), "object": rng.choice(OBJECTS)}


def key(slots: dict[str, str]) -> tuple[object, ...]:
    """The four words, which decide the side of the split."""
    return ("story", slots["hero"], slots["friend"], slots["place"], slots["object"])


def prompt(rng: random.Random, slots: dict[str, str]) -> str:
    """The request with its constraints."""
    return rng.choice(_REQUEST).say(rng, slots)


def answer(rng: random.Random, slots: dict[str, str]) -> str:
    """A story, in one paragraph, that uses all four words."""
    while True:
        story = " ".join(rng.choice(options).say(rng, slots) for options in _PARTS)
        if _uses_all(slots, story):
            return story


def check(slots: dict[str, str], completion: str) -> bool:
    """Whether the grammar can produce this story, and it uses all four words."""
    parts = ("(?:" + "|".join(option.pattern(slots) for option in options) + ")" for options in _PARTS)
    story = completion.strip()
    return _uses_all(slots, story) and re.fullmatch(" ".join(parts), story) is not None


def _uses_all(slots: dict[str, str], story: str) -> bool:
    return all(re.search(rf"\b{re.escape(word)}\b", story) for word in slots.values())
