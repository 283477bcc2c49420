"""Keeps control tokens in message text from becoming tokens, so that a message cannot open or close a turn.

A chat template writes contents and control tokens into one text, which is tokenised as a whole. So that ``<|im_end|>``
in a content does not become a token, an unused mark is inserted after its first character. The rendered text is split
at the marks, so no part contains that control token any more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

MARKS = [chr(code) for code in range(0xE000, 0xE020)]
"""Private-use characters; templates write them unchanged or JSON-escaped."""

T = TypeVar("T")


class ControlTokens:
    """The control tokens of one model."""

    def __init__(self, texts: Sequence[str]) -> None:
        longest_first = sorted((text for text in texts if len(text) > 1), key=len, reverse=True)
        self._found = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def broken(self, content: T, mark: str) -> T:
        """The content with the mark inside every control token of its texts."""
        if self._found is None:
            return content
        if isinstance(content, str):
            text: str = content
            while self._found.search(text):  # the result may contain another one
                text = self._found.sub(lambda found: found[0][0] + mark + found[0][1:], text)
            return text  # type: ignore[return-value]
        if isinstance(content, Mapping):
            return {self.broken(key, mark): self.broken(value, mark) for key, value in content.items()}  # type: ignore[return-value]
        if isinstance(content, Sequence):
            return [self.broken(one, mark) for one in content]  # type: ignore[return-value]
        return content


def unused_mark(*contents: Any) -> str:
    """A mark that does not occur in the contents."""
    written = json.dumps(contents, ensure_ascii=False, default=str)
    return next((mark for mark in MARKS if mark not in written), MARKS[0])


def split_at(text: str, mark: str) -> list[str]:
    """The parts of a rendered text between marks."""
    return re.split(f"{mark}|{re.escape(json.dumps(mark)[1:-1])}", text)
