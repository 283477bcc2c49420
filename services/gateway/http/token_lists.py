"""Log-probabilities in OpenAI's two shapes: a list of objects (chat), four parallel lists (text completions)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from adasd.results import TokenLogprob
from services.gateway.backend import Text

LOWEST = -9999.0
"""JSON has no infinity; OpenAI uses this value for an impossible token."""


@dataclass(frozen=True, slots=True)
class ListedToken:
    """One token of the prompt or the answer, with its log-probability under the target."""

    id: int
    logprob: TokenLogprob | None  # None for the first token of a prompt, which has no context
    offset: int  # characters of the choice's text before it


def chat_logprobs(tokens: Sequence[ListedToken], text: Text) -> dict[str, Any] | None:
    """``logprobs`` of a chat choice; None without tokens."""
    listed = [
        {**_spelled(token.id, token.logprob.logprob, text), "top_logprobs": _likeliest(token.logprob, text)}
        for token in tokens
        if token.logprob is not None
    ]
    return {"content": listed, "refusal": None} if listed else None


def completion_logprobs(tokens: Sequence[ListedToken], text: Text) -> dict[str, Any] | None:
    """``logprobs`` of a text completion's choice; None without tokens.

    As with OpenAI, the token itself is always among its ``top_logprobs``, however unlikely.
    """
    if not tokens:
        return None
    return {
        "tokens": [_name(token.id, text) for token in tokens],
        "token_logprobs": [_shown(token.logprob.logprob) if token.logprob else None for token in tokens],
        "top_logprobs": [_by_name(token, text) for token in tokens],
        "text_offset": [token.offset for token in tokens],
    }


def prompt_logprobs(
    prompt: Sequence[int], logprobs: Sequence[TokenLogprob], text: Text
) -> list[dict[str, Any] | None]:
    """vLLM's ``prompt_logprobs``: null for the first token, then for each the token itself and the likeliest ones."""
    return [None, *(_by_id(token, one, text) for token, one in zip(prompt[1:], logprobs, strict=True))]


def _by_id(token_id: int, logprob: TokenLogprob, text: Text) -> dict[str, Any]:
    """Tokens by id. The rank of a token that is not among the likeliest is not known."""
    ranks = {likely: rank for rank, (likely, _) in enumerate(logprob.top, 1)}
    values = {token_id: logprob.logprob, **dict(logprob.top)}
    return {
        str(one): {
            "logprob": _shown(value),
            "rank": ranks.get(one),
            "decoded_token": text.token_bytes(one).decode("utf-8", "replace"),
        }
        for one, value in values.items()
    }


def _likeliest(logprob: TokenLogprob, text: Text) -> list[dict[str, Any]]:
    return [_spelled(token_id, value, text) for token_id, value in logprob.top]


def _by_name(token: ListedToken, text: Text) -> dict[str, float] | None:
    if token.logprob is None:
        return None
    named: dict[str, float] = {}
    for token_id, value in (*token.logprob.top, (token.id, token.logprob.logprob)):
        named.setdefault(_name(token_id, text), _shown(value))
    return named


def _spelled(token_id: int, logprob: float, text: Text) -> dict[str, Any]:
    spelled = text.token_bytes(token_id)
    shown = spelled.decode("utf-8", "backslashreplace")
    return {"token": shown, "logprob": _shown(logprob), "bytes": list(spelled)}


def _name(token_id: int, text: Text) -> str:
    """A token's name in text completions; a partial character is ``bytes:\\xe2\\x80``."""
    spelled = text.token_bytes(token_id)
    try:
        return spelled.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelled)


def _shown(logprob: float) -> float:
    return max(logprob, LOWEST)
