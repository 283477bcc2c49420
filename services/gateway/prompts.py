"""Prompts as clients may write them: a text, token ids, or a list of either."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from adasd.errors import InvalidRequest
from adasd.text.chat import check_text
from services.gateway.backend import Text
from services.gateway.schema import MAX_PROMPTS


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt, ready for the model."""

    ids: tuple[int, ...]
    text: str | None = None  # as the client wrote it; None where it came as token ids or as a conversation


def read_prompts(prompt: Any, text: Text) -> tuple[Prompt, ...]:
    """Every prompt in one of OpenAI's four shapes; raises InvalidRequest naming the part that is wrong."""
    if isinstance(prompt, str) or (isinstance(prompt, list) and prompt and _is_int(prompt[0])):
        return (_read_prompt(prompt, text, "prompt"),)
    if not isinstance(prompt, list) or not prompt:
        raise InvalidRequest("prompt must be a text, a list of token ids, or a list of either", "prompt")
    if len(prompt) > MAX_PROMPTS:
        raise InvalidRequest(f"prompt holds {len(prompt)} prompts; send at most {MAX_PROMPTS}", "prompt")
    return tuple(_read_prompt(one, text, f"prompt.{i}") for i, one in enumerate(prompt))


def check_token(token_id: int, vocab_size: int, where: str) -> None:
    """Raises InvalidRequest for an id that the vocabulary does not have."""
    if not 0 <= token_id < vocab_size:
        raise InvalidRequest(
            f"{where} is {token_id}, but token ids here run from 0 to {vocab_size - 1}", where
        )


def _read_prompt(prompt: Any, text: Text, where: str) -> Prompt:
    if isinstance(prompt, str):
        read = Prompt(text.encode(check_text(prompt, where)), prompt)
    elif isinstance(prompt, list) and all(_is_int(token_id) for token_id in prompt):
        read = Prompt(tuple(prompt))
        for i, token_id in enumerate(read.ids):
            check_token(token_id, text.vocab_size, f"{where}.{i}")
    else:
        raise InvalidRequest(f"{where} must be a text or a list of token ids", where)
    if not read.ids:
        raise InvalidRequest(f"{where} is empty; it must hold at least one token", where)
    return read


def _is_int(value: Any) -> bool:
    return type(value) is int
