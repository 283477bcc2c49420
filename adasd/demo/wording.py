"""Phrases with choices: one notation that can generate and recognise wordings.

`{a|b|}` chooses one alternative (here also nothing) and may be nested; `<name>` is filled in by the caller. The same
phrase gives a random wording (`say`) and a regular expression of all its wordings (`pattern`), so a grammar of phrases
can check everything that it can generate.
"""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass

_SLOT = re.compile(r"<([a-z]+)>")


@dataclass(frozen=True, slots=True)
class _PhraseSlot:
    name: str


@dataclass(frozen=True, slots=True)
class _Choice:
    options: tuple["Phrase", ...]


@dataclass(frozen=True, slots=True)
class Phrase:
    """A parsed phrase: literal text, slots and choices, in order."""

    parts: tuple[str | _PhraseSlot | _Choice, ...]

    def say(self, rng: random.Random, slots: Mapping[str, str] | None = None) -> str:
        """A random wording; raises KeyError if `slots` lacks a slot."""
        words = []
        for part in self.parts:
            if isinstance(part, str):
                words.append(part)
            elif isinstance(part, _PhraseSlot):
                words.append((slots or {})[part.name])
            else:
                words.append(part.options[int(rng.random() * len(part.options))].say(rng, slots))
        return "".join(words)

    def pattern(self, slots: Mapping[str, str] | None = None) -> str:
        """A regular expression that matches exactly the wordings that `say` can produce."""
        pieces = []
        for part in self.parts:
            if isinstance(part, str):
                pieces.append(re.escape(part))
            elif isinstance(part, _PhraseSlot):
                pieces.append(re.escape((slots or {})[part.name]))
            else:
                pieces.append("(?:" + "|".join(option.pattern(slots) for option in part.options) + ")")
        return "".join(pieces)


def phrase(text: str) -> Phrase:
    """Parse the notation above. Braces must balance; there is no escape for `{`, `|` and `}`."""
    parsed, end = _sequence(text, 0, inside=False)
    if end != len(text):
        raise ValueError(f"unbalanced brace at character {end} of {text!r}")
    return parsed


def phrases(*texts: str) -> tuple[Phrase, ...]:
    """Several phrases, parsed."""
    return tuple(phrase(text) for text in texts)


def _sequence(text: str, at: int, *, inside: bool) -> tuple[Phrase, int]:
    parts: list[str | _PhraseSlot | _Choice] = []
    while at < len(text):
        char = text[at]
        if char == "{":
            choice, at = _choice(text, at + 1)
            parts.append(choice)
        elif char == "}" or (char == "|" and inside):
            break
        elif slot := _SLOT.match(text, at):
            parts.append(_PhraseSlot(slot.group(1)))
            at = slot.end()
        else:
            end = at + 1
            while end < len(text) and text[end] not in ("{", "}", "<", "|" if inside else "{"):
                end += 1
            parts.append(text[at:end])
            at = end
    return Phrase(tuple(parts)), at


def _choice(text: str, at: int) -> tuple[_Choice, int]:
    options = []
    while True:
        option, at = _sequence(text, at, inside=True)
        options.append(option)
        if at >= len(text):
            raise ValueError(f"a choice is not closed in {text!r}")
        if text[at] == "}":
            return _Choice(tuple(options)), at + 1
        at += 1
