"""Converts prompts (a text, token ids or a conversation) to token ids; the same over HTTP and gRPC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adasd.errors import ContextTooLong, InvalidRequest
from adasd.text.chat import check_text
from services.gateway.backend import Backend, Text

NO_OPTIONS: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt, ready for the model."""

    ids: tuple[int, ...]
    where: str  # the field that it came from
    text: str | None = None  # as the caller wrote it; None if it came as token ids or a conversation
    least_tokens: int = 0  # shortest answer allowed


def text_prompt(text: str, backend: Backend, where: str, special: bool = True) -> Prompt:
    """``special``: prepend the model's special tokens (such as BOS). Raises InvalidRequest, ContextTooLong."""
    check_text(text, where)
    check_chars(len(text), backend, where)
    return _filled(Prompt(backend.tokenizer.encode(text, special), where, text))


def ids_prompt(ids: Sequence[int], text: Text, where: str) -> Prompt:
    """Raises InvalidRequest for an id outside the vocabulary."""
    for i, token_id in enumerate(ids):
        check_token(token_id, text.vocab_size, f"{where}.{i}")
    return _filled(Prompt(tuple(ids), where))


def chat_prompt(
    messages: Sequence[Any],
    backend: Backend,
    tools: Sequence[Any] = (),
    options: Mapping[str, Any] = NO_OPTIONS,
    continue_final: bool = False,
) -> Prompt:
    """A conversation, rendered with the model's chat template. Raises InvalidRequest, ContextTooLong.

    ``continue_final``: the answer continues the last message.
    """
    check_chars(_num_chars(messages), backend, "messages")
    ids = backend.tokenizer.apply_chat_template(messages, tools, options, continue_final)
    return Prompt(ids, "messages", least_tokens=1)


def check_token(token_id: int, vocab_size: int, where: str) -> None:
    """Raises InvalidRequest for an id outside the vocabulary."""
    if not 0 <= token_id < vocab_size:
        raise InvalidRequest(
            f"{where} is {token_id}, but token ids here run from 0 to {vocab_size - 1}", where
        )


def check_chars(num_chars: int, backend: Backend, where: str) -> None:
    """Raises ContextTooLong for a text that cannot fit, without the cost of tokenising it."""
    num_tokens = num_chars // backend.tokenizer.max_token_chars
    if num_tokens >= backend.context_len:
        raise too_long(num_tokens, 1, backend.context_len, where)


def too_long(num_prompt: int, num_asked: int, context_len: int, where: str) -> ContextTooLong:
    """The error, naming the field that the prompt came from."""
    error = ContextTooLong(num_prompt, num_asked, context_len)
    error.param = where
    return error


def _num_chars(content: Any) -> int:
    """Characters of the texts in a conversation."""
    if isinstance(content, str):
        return len(content)
    if isinstance(content, Mapping):
        return sum(map(_num_chars, content.values()))
    return sum(map(_num_chars, content)) if isinstance(content, Sequence) else 0


def _filled(prompt: Prompt) -> Prompt:
    if not prompt.ids:
        raise InvalidRequest(f"{prompt.where} is empty; it must hold at least one token", prompt.where)
    return prompt
