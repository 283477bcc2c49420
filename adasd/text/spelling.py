"""The bytes of a token, which may be an incomplete character.

Byte-level vocabularies write each byte as one printable character. SentencePiece writes a space as ``▁`` and, with byte
fallback, a single byte as ``<0xE4>``. The type of the tokenizer's decoder decides which applies.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
BLANK = "▁"


class Spelling:
    """Bytes of a tokenizer's tokens. ``inner`` is a Hugging Face tokenizer with a Rust backend."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._added = {int(i) for i in inner.added_tokens_decoder}
        self._decoders = _decoder_types(inner)
        self._known: dict[int, bytes] = {}

    @property
    def knows_all_bytes(self) -> bool:
        """Whether every text can be encoded without an unknown token."""
        return not {"ByteLevel", "ByteFallback"}.isdisjoint(self._decoders)

    def __call__(self, token_id: int) -> bytes:
        """Bytes of the token; empty for an unknown id."""
        known = self._known.get(token_id)
        if known is None:
            known = self._known[token_id] = self._spell(token_id)
        return known

    def _spell(self, token_id: int) -> bytes:
        piece = self._inner.convert_ids_to_tokens(token_id)
        if piece is None:
            return b""
        if token_id in self._added:
            return str(piece).encode()
        if "ByteLevel" in self._decoders:
            values = [byte_of().get(character) for character in piece]
            return bytes(v for v in values if v is not None) if None not in values else str(piece).encode()
        if "ByteFallback" in self._decoders and (match := BYTE_PIECE.fullmatch(piece)):
            return bytes([int(match[1], 16)])
        if self._decoders & {"Replace", "Metaspace"}:
            return str(piece).replace(BLANK, " ").encode()
        return str(self._inner.decode([token_id], skip_special_tokens=False)).encode()


@cache
def byte_of() -> dict[str, int]:
    """GPT-2's mapping of characters to bytes in byte-level vocabularies.

    Printable Latin-1 characters map to themselves; characters from U+0100 on map to the other bytes, in order.
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(b): b for b in plain} | {chr(0x100 + i): b for i, b in enumerate(others)}


def _decoder_types(inner: Any) -> frozenset[str]:
    decoder = inner.backend_tokenizer.decoder
    if decoder is None:
        return frozenset()
    state = json.loads(decoder.__getstate__())
    return frozenset({state["type"], *(one["type"] for one in state.get("decoders", ()))})
