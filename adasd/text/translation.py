"""Tokens of one vocabulary in another: by their bytes where both have the token, else by its text.

Token-level intersection (arXiv:2502.05202) with a way back for prompts: a drafted token without a counterpart ends a
block, but whatever the target commits can be fed to the draft.
"""

from __future__ import annotations

from functools import lru_cache

from adasd.text.tokenizer import Tokenizer


class Translation:
    """Ids of a target's tokens in a draft's vocabulary, and back."""

    def __init__(self, target: Tokenizer, draft: Tokenizer) -> None:
        self._target, self._draft = target, draft
        self._of_draft, self._of_target = _ids_by_bytes(draft), _ids_by_bytes(target)
        self._ends = draft.eos_ids
        self._end = target.inner.eos_token_id
        self.to_draft = lru_cache(maxsize=1 << 16)(self._to_draft)

    @property
    def num_shared(self) -> int:
        """Tokens that both vocabularies have."""
        return len(self._of_draft.keys() & self._of_target.keys())

    def _to_draft(self, token_id: int) -> tuple[int, ...]:
        """The draft's ids for one of the target's tokens; empty if its bytes cannot be written there."""
        spelt = self._target.token_bytes(token_id)
        if (same := self._of_draft.get(spelt)) is not None:
            return (same,)
        pieces = [self._of_draft.get(bytes([byte])) for byte in spelt]
        try:
            return self._draft.encode(spelt.decode(), add_special_tokens=False) if spelt else ()
        except UnicodeDecodeError:  # part of a character: byte by byte, as far as the draft has such tokens
            return tuple(piece for piece in pieces if piece is not None)

    def to_target(self, token_id: int) -> int | None:
        """The target's id for one of the draft's tokens; None if it has no such token."""
        if token_id in self._ends and self._end is not None:
            return int(self._end)
        return self._of_target.get(self._draft.token_bytes(token_id))


def _ids_by_bytes(tokenizer: Tokenizer) -> dict[bytes, int]:
    """The lowest id of each spelling; special tokens by their names."""
    found: dict[bytes, int] = {}
    for token_id in sorted(tokenizer.inner.get_vocab().values()):
        spelt = tokenizer.token_bytes(token_id)
        if spelt:
            found.setdefault(spelt, token_id)
    return found
