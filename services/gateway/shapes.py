"""The two OpenAI response shapes; what differs between chat and text completions, and nothing else."""

from __future__ import annotations

from typing import Any, Protocol


class Shape(Protocol):
    """How one route writes its choices."""

    id_prefix: str
    whole: str  # value of `object` of a whole response
    piece: str  # value of `object` of a streamed chunk

    def answer(self, text: str) -> dict[str, Any]:
        """The part of a choice that holds a whole answer."""
        ...

    def delta(self, text: str, first: bool) -> dict[str, Any]:
        """The part of a choice that holds a chunk's new text."""
        ...


class ChatShape:
    """``/v1/chat/completions``."""

    id_prefix, whole, piece = "chatcmpl-", "chat.completion", "chat.completion.chunk"

    def answer(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text}}

    def delta(self, text: str, first: bool) -> dict[str, Any]:
        # The role rides on the first token: benchmark clients count a chunk of its own as a step.
        return {"delta": {"role": "assistant", "content": text} if first else {"content": text}}


class CompletionShape:
    """``/v1/completions``."""

    id_prefix, whole, piece = "cmpl-", "text_completion", "text_completion"

    def answer(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def delta(self, text: str, first: bool) -> dict[str, Any]:
        return {"text": text}


def choice(index: int, part: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
    """One entry of ``choices``."""
    return {"index": index, **part, "logprobs": None, "finish_reason": finish_reason}
