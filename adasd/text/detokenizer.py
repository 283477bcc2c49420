"""Incremental detokenization as a pure function over frozen state, without torch or transformers.

A character may span several tokens (byte-level BPE, byte fallback), and a decoder may treat a token differently at the
start of a text (SentencePiece's space). So new tokens are decoded together with the tokens before them, and trailing
replacement characters are held back until they are complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adasd.ports import Decode

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
MAX_HELD = 256
"""An incomplete tail is shown as it is after this many tokens, which bounds the work per token."""


@dataclass(frozen=True, slots=True)
class DetokenizerState:
    """State between tokens; the default is the start of an answer."""

    context: tuple[int, ...] = ()  # token ids shown in full, with which the next tokens are decoded
    held: tuple[int, ...] = ()  # token ids after those, not yet shown in full
    num_shown: int = 0  # characters shown of the text of ``held``


def push(state: DetokenizerState, token_ids: Sequence[int], decode: Decode) -> tuple[DetokenizerState, str]:
    """Append ``token_ids``; returns the new state and the text that is now final.

    The texts of all pushes and of the flush add up to ``decode`` of all ids, no matter how the ids were split.
    """
    if not token_ids:
        return state, ""
    held = (*state.held, *token_ids)
    text = _text_after(state.context, held, decode)
    tail_len = 0 if len(state.held) >= MAX_HELD else _unfinished_len(text)
    if tail_len or (not text and len(held) < MAX_HELD):
        certain_len = max(len(text) - tail_len, state.num_shown)
        return DetokenizerState(state.context, held, certain_len), text[state.num_shown : certain_len]
    return DetokenizerState(held if text else state.context), text[state.num_shown :]


def flush(state: DetokenizerState, decode: Decode) -> tuple[DetokenizerState, str]:
    """At the end of an answer: the text held back, including replacement characters."""
    if not state.held:
        return state, ""
    text = _text_after(state.context, state.held, decode)
    return DetokenizerState(state.held if text else state.context), text[state.num_shown :]


def _text_after(context: tuple[int, ...], held: tuple[int, ...], decode: Decode) -> str:
    context_text = decode(context) if context else ""
    return decode(context + held)[len(context_text) :]


def _unfinished_len(text: str) -> int:
    # can be many: byte fallback decodes a run of bytes to replacement characters until its last character is complete
    return len(text) - len(text.rstrip(REPLACEMENT))
