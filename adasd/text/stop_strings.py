"""Finds stop strings in a streamed answer.

Text is held back while it could still become part of a stop string or is an incomplete character.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from adasd.ports import Decode
from adasd.text import detokenizer
from adasd.text.detokenizer import DetokenizerState


@dataclass(frozen=True, slots=True)
class TextState:
    """The detokenizer's state, and the text held back because a stop string may begin in it."""

    detokenizer: DetokenizerState = field(default_factory=DetokenizerState)
    held: str = ""


def push(
    state: TextState, tokens: Sequence[int], stops: Sequence[str], decode: Decode
) -> tuple[TextState, str, str | None]:
    """Add tokens; returns (state, text to show, stop string that matched or None).

    With a match, the text ends right before the stop string: the earliest match, and the longest of equal start.
    """
    inner, piece = detokenizer.push(state.detokenizer, tokens, decode)
    waiting = state.held + piece
    match = find_stop(waiting, stops)
    if match is not None:
        start, stop = match
        return TextState(inner, ""), waiting[:start], stop
    cut = len(waiting) - partial_stop_len(waiting, stops)
    return TextState(inner, waiting[cut:]), waiting[:cut], None


def flush(state: TextState, decode: Decode) -> str:
    """The text left to show when the answer ends without a stop string."""
    return state.held + detokenizer.flush(state.detokenizer, decode)[1]


def find_stop(text: str, stops: Sequence[str]) -> tuple[int, str] | None:
    """Start and stop string of the earliest occurrence; None without one."""
    found = [(start, -len(stop), stop) for stop in stops if (start := text.find(stop)) >= 0]
    if not found:
        return None
    start, _, stop = min(found)
    return start, stop


def partial_stop_len(text: str, stops: Sequence[str]) -> int:
    """Length of the longest suffix of ``text`` that is a proper prefix of a stop string."""
    longest = max((len(stop) - 1 for stop in stops), default=0)
    for length in range(min(longest, len(text)), 0, -1):
        if any(stop.startswith(text[-length:]) for stop in stops):
            return length
    return 0
