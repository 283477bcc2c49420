"""Lists which token each part of the shown text came from.

Shown text lags behind tokens (partial characters, possible stop strings). A token is listed once all of its text
is shown, at the latest with the last chunk, so that the listed texts join to exactly what was shown.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from adasd.ports import Decode
from adasd.results import Chunk, TokenKind
from adasd.text.detokenizer import DetokenizerState, flush, push


class Provenance:
    """Tracks one answer."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._state = DetokenizerState()
        self._waiting: deque[tuple[int, TokenKind, str]] = deque()
        self._num_shown = 0  # characters shown that belong to waiting tokens

    def listed(self, chunk: Chunk) -> list[dict[str, Any]]:
        """``[{id, kind, text}]`` of the tokens whose text is complete with this chunk."""
        for token in chunk.tokens:
            self._state, text = push(self._state, (token.id,), self._decode)
            self._waiting.append((token.id, token.kind, text))
        self._num_shown += len(chunk.text)
        if chunk.finish_reason is not None:
            return self._rest()
        done = []
        while self._waiting and len(self._waiting[0][2]) <= self._num_shown:
            token_id, kind, text = self._waiting.popleft()
            self._num_shown -= len(text)
            done.append(_json(token_id, kind, text))
        return done

    def _rest(self) -> list[dict[str, Any]]:
        self._state, tail = flush(self._state, self._decode)
        rest = []
        while self._waiting:
            token_id, kind, text = self._waiting.popleft()
            text = (text if self._waiting else text + tail)[: self._num_shown]
            self._num_shown -= len(text)
            rest.append(_json(token_id, kind, text))
        return rest


def _json(token_id: int, kind: TokenKind, text: str) -> dict[str, Any]:
    return {"id": token_id, "kind": kind.value, "text": text}
