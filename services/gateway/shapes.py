"""The two OpenAI response shapes; what differs between chat and text completions, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from adasd.messages import FinishReason
from services.gateway.backend import Text
from services.gateway.logprobs import ListedToken, chat_logprobs, completion_logprobs


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

    def logprobs(self, tokens: Sequence[ListedToken], text: Text) -> dict[str, Any] | None:
        """The log-probabilities of a choice or of a chunk; None without tokens."""
        ...


class ChatShape:
    """``/v1/chat/completions``."""

    id_prefix, whole, piece = "chatcmpl-", "chat.completion", "chat.completion.chunk"

    def answer(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def delta(self, text: str, first: bool) -> dict[str, Any]:
        # The role rides on the first token: benchmark clients count a chunk of its own as a step.
        return {"delta": {"role": "assistant", "content": text} if first else {"content": text}}

    def logprobs(self, tokens: Sequence[ListedToken], text: Text) -> dict[str, Any] | None:
        return chat_logprobs(tokens, text)


class CompletionShape:
    """``/v1/completions``."""

    id_prefix, whole, piece = "cmpl-", "text_completion", "text_completion"

    def answer(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def delta(self, text: str, first: bool) -> dict[str, Any]:
        return {"text": text}

    def logprobs(self, tokens: Sequence[ListedToken], text: Text) -> dict[str, Any] | None:
        return completion_logprobs(tokens, text)


def choice(
    index: int, part: dict[str, Any], logprobs: dict[str, Any] | None, reason: FinishReason | None
) -> dict[str, Any]:
    """One entry of ``choices``."""
    return {"index": index, **part, "logprobs": logprobs, "finish_reason": reason.value if reason else None}
