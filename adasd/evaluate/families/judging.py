"""What the checks of several families share."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence


def plain(text: str) -> str:
    """Lower case, one space between words, no quotation marks."""
    return " ".join(re.sub(r"[\"“”`*_]", "", text).casefold().split())


def says(words: str, text: str) -> bool:
    """Whether the text holds these words as a whole, in any case and spacing."""
    return re.search(rf"(?<!\w){re.escape(plain(words))}(?!\w)", plain(text)) is not None


def numbers(text: str) -> list[int]:
    """The whole numbers of a text; thousands may be separated by commas."""
    return [int(found) for found in re.findall(r"(?<![\w.])-?\d+(?![\w]|\.\d)", text.replace(",000", "000"))]


def last_number(expected: int, text: str) -> bool:
    """Whether the last number of the text is the expected one."""
    found = numbers(text)
    return bool(found) and found[-1] == expected


def in_order(expected: Sequence[object], found: Sequence[object]) -> bool:
    """Whether the expected values stand in the found ones one after the other."""
    length, wanted = len(expected), list(expected)
    return any(list(found[at : at + length]) == wanted for at in range(len(found) - length + 1))


def holds_object(expected: Mapping[str, object], text: str) -> bool:
    """Whether the first JSON object of the text has exactly these fields; numbers may be written as text."""
    start = text.find("{")
    try:
        found, _ = json.JSONDecoder().raw_decode(text[start:]) if start >= 0 else (None, 0)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and {plain(key): plain(str(value)) for key, value in found.items()} == {
        plain(key): plain(str(value)) for key, value in expected.items()
    }
