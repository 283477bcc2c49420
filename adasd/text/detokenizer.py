"""Token ids to text while they arrive; a pure function over frozen state, without torch or transformers.

A character may be spread over several tokens (byte-level BPE, byte fallback), and a decoder may treat a token
differently at the start of a text (the space of SentencePiece). So new tokens are decoded together with the
tokens shown last, and a tail that decodes to replacement characters is held back until it is a character.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adasd.ports import Decode

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
MAX_HELD = 256
"""Tokens after which a tail that still is no character is shown as it is (bounds the work per token)."""


@dataclass(frozen=True, slots=True)
class DetokenizerState:
    """What the next tokens depend on; the default value is the start of an answer."""

    context: tuple[int, ...] = ()  # token ids shown in full; decoded again in front of what follows
    held: tuple[int, ...] = ()  # token ids behind them, not shown in full yet
    num_shown: int = 0  # characters of the text of ``held`` that were shown


def push(state: DetokenizerState, token_ids: Sequence[int], decode: Decode) -> tuple[DetokenizerState, str]:
    """Append ``token_ids``; return the text that is certain now.

    The texts of all pushes and the final flush join to ``decode`` of all ids, wherever blocks were cut.
    """
    if not token_ids:
        return state, ""
    held = (*state.held, *token_ids)
    text = _text_behind(state.context, held, decode)
    tail_len = 0 if len(state.held) >= MAX_HELD else _unfinished_len(text)
    if tail_len or (not text and len(held) < MAX_HELD):
        certain_len = max(len(text) - tail_len, state.num_shown)
        return DetokenizerState(state.context, held, certain_len), text[state.num_shown : certain_len]
    return DetokenizerState(held if text else state.context), text[state.num_shown :]


def flush(state: DetokenizerState, decode: Decode) -> tuple[DetokenizerState, str]:
    """Give out what is held back, replacement characters included; for the end of an answer."""
    if not state.held:
        return state, ""
    text = _text_behind(state.context, state.held, decode)
    return DetokenizerState(state.held if text else state.context), text[state.num_shown :]


def _text_behind(context: tuple[int, ...], held: tuple[int, ...], decode: Decode) -> str:
    context_text = decode(context) if context else ""
    return decode(context + held)[len(context_text) :]


def _unfinished_len(text: str) -> int:
    # Of any number: byte fallback shows a run of bytes as replacements until its last character is done.
    return len(text) - len(text.rstrip(REPLACEMENT))
