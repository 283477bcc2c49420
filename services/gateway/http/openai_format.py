"""The two OpenAI response shapes: only what differs between chat and text completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from services.gateway.backend import Text
from services.gateway.http.choice_stream import ChoiceDelta
from services.gateway.http.token_lists import ListedToken, chat_logprobs, completion_logprobs
from services.gateway.http.tool_use import whole_calls


class OpenAiFormat(Protocol):
    """How one route formats its choices."""

    id_prefix: str
    whole: str  # value of `object` of a whole response
    piece: str  # value of `object` of a streamed chunk
    prompt_in_choice: bool  # whether choices, and not the response, list the prompt's log-probabilities

    def answer(self, pieces: Sequence[ChoiceDelta]) -> dict[str, Any]:
        """The part of a choice that holds a whole answer."""
        ...

    def delta(self, piece: ChoiceDelta, first: bool) -> dict[str, Any]:
        """The part of a choice that holds what a chunk adds."""
        ...

    def logprobs(self, tokens: Sequence[ListedToken], text: Text) -> dict[str, Any] | None:
        """The log-probabilities of a choice or of a chunk; None without tokens."""
        ...


class ChatFormat:
    """``/v1/chat/completions``."""

    id_prefix, whole, piece = "chatcmpl-", "chat.completion", "chat.completion.chunk"
    prompt_in_choice = False

    def answer(self, pieces: Sequence[ChoiceDelta]) -> dict[str, Any]:
        text, calls = joined(pieces), whole_calls(delta for piece in pieces for delta in piece.calls)
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if calls:
            message |= {"content": text or None, "tool_calls": calls}
        return {"message": message}

    def delta(self, piece: ChoiceDelta, first: bool) -> dict[str, Any]:
        # The role goes with the first token: benchmark clients would count a chunk of its own as a step.
        delta: dict[str, Any] = {"role": "assistant"} if first else {}
        delta["content"] = piece.text
        if piece.calls:
            delta["tool_calls"] = list(piece.calls)
        return {"delta": delta}

    def logprobs(self, tokens: Sequence[ListedToken], text: Text) -> dict[str, Any] | None:
        return chat_logprobs(tokens, text)


class CompletionFormat:
    """``/v1/completions``."""

    id_prefix, whole, piece = "cmpl-", "text_completion", "text_completion"
    prompt_in_choice = True

    def answer(self, pieces: Sequence[ChoiceDelta]) -> dict[str, Any]:
        return {"text": joined(pieces)}

    def delta(self, piece: ChoiceDelta, first: bool) -> dict[str, Any]:
        return {"text": piece.text}

    def logprobs(self, tokens: Sequence[ListedToken], text: Text) -> dict[str, Any] | None:
        return completion_logprobs(tokens, text)


def choice(
    index: int, part: dict[str, Any], logprobs: dict[str, Any] | None, reason: str | None
) -> dict[str, Any]:
    """One entry of ``choices``."""
    return {"index": index, **part, "logprobs": logprobs, "finish_reason": reason}


def joined(pieces: Sequence[ChoiceDelta]) -> str:
    """The text of a whole answer."""
    return "".join(piece.text for piece in pieces)
