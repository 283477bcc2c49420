"""Families about a short text: quote an answer, extract to JSON, classify, summarise with required words."""

from __future__ import annotations

import json
import random
from functools import partial

from adasd.evaluate.families import material
from adasd.evaluate.families.ask import Ask, Split, part
from adasd.evaluate.families.judging import holds_object, says


def quote(rng: random.Random, split: Split) -> Ask:
    """Four sentences of which one answers the question; right if the answer holds its words and no other answer."""
    people = rng.sample(part(material.NAMES, split), 4)
    objects = rng.sample(part(material.OBJECTS, split), 4)
    places = rng.sample(part(material.PLACES, split), 4)
    text = " ".join(
        f"{who} keeps the {what} in the {where}."
        for who, what, where in zip(people, objects, places, strict=True)
    )
    asked = rng.randrange(4)
    others = [place for place in places if place != places[asked]]
    prompt = f"{text}\nWhere does {people[asked]} keep the {objects[asked]}? Quote the words from the text."
    answer = f'"in the {places[asked]}"'
    return Ask(prompt, answer, partial(_only, places[asked], others), (*people, *objects, *places, asked))


def _only(expected: str, others: list[str], text: str) -> bool:
    return says(expected, text) and not any(says(other, text) for other in others)


def extraction(rng: random.Random, split: Split) -> Ask:
    """One sentence about a person; right if the answer's first JSON object has all fields and no other."""
    name, city = rng.choice(part(material.NAMES, split)), rng.choice(part(material.CITIES, split))
    job, age = rng.choice(part(material.JOBS, split)), rng.randint(19, 78)
    fields = {"name": name, "age": age, "job": job, "city": city}
    shape = json.dumps(dict.fromkeys(fields, "..."))
    told = rng.choice(
        (
            f"{name} is {age} years old, lives in {city} and works as a {job}.",
            f"In {city} lives the {job} {name}, aged {age}.",
            f"{name}, a {job} from {city}, turned {age} this year.",
        )
    )
    prompt = f"{told}\nGive this as one JSON object of the form {shape} and nothing else."
    return Ask(prompt, json.dumps(fields), partial(holds_object, fields), (name, age, job, city))


def classification(rng: random.Random, split: Split) -> Ask:
    """A review; right if the answer names its label and not the other one."""
    product = rng.choice(part(material.PRODUCTS, split))
    good = rng.random() < 0.5
    remarks = rng.sample(part(material.PRAISE if good else material.BLAME, split), 2)
    labels = ("positive", "negative") if good else ("negative", "positive")
    prompt = (
        f"Review of a {product}: {remarks[0]}. {remarks[1]}.\n"
        "Is this review positive or negative? Answer with one word."
    )
    return Ask(prompt, labels[0].capitalize(), partial(_only, labels[0], [labels[1]]), (product, *remarks))


def summary(rng: random.Random, split: Split) -> Ask:
    """Four sentences; right if the answer is shorter than they are and has the two required words."""
    who, city = rng.choice(part(material.NAMES, split)), rng.choice(part(material.CITIES, split))
    animal, thing = rng.choice(part(material.ANIMALS, split)), rng.choice(part(material.OBJECTS, split))
    place = rng.choice(part(material.PLACES, split))
    text = (
        f"{who} moved to {city} two years ago and rents a small room above the {place}. One morning a {animal} came "
        f"through the open window and took the {thing} from the table. {who} ran after it through the whole town. "
        f"In the evening the {animal} brought the {thing} back, and since then it has come every day."
    )
    words = (animal, thing)
    prompt = f"{text}\nSummarize this in one sentence. Use the words {words[0]} and {words[1]}."
    answer = f"In {city}, a {animal} took the {thing} of {who} and brought it back."
    return Ask(prompt, answer, partial(_short, words, len(text.split())), (who, city, animal, thing, place))


def _short(words: tuple[str, ...], longest: int, text: str) -> bool:
    return len(text.split()) < longest and all(says(word, text) for word in words)
