"""Text to token ids and back for clients, in vLLM's shapes: ``/tokenize`` and ``/detokenize``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from adasd.errors import InvalidRequest, UnknownModel
from services.gateway.backend import Backend
from services.gateway.http.schema import Body, TokenId

MAX_TOKENS = 1_000_000
NOT_SUPPORTED = ("chat_template", "chat_template_kwargs", "tools", "mm_processor_kwargs")


class TokenizeBody(Body):
    """``POST /tokenize``: a prompt or a conversation."""

    model: str | None = Field(None, max_length=512, description="unset: the only model served")
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    add_special_tokens: bool | None = Field(None, description="unset: true for a prompt, false for messages")
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    return_token_strs: bool | None = Field(None, description="list the tokens as the vocabulary writes them")


class DetokenizeBody(Body):
    """``POST /detokenize``."""

    model: str | None = Field(None, max_length=512, description="unset: the only model served")
    tokens: Annotated[list[TokenId], Field(max_length=MAX_TOKENS)]


def tokenize(body: TokenizeBody, backend: Backend) -> dict[str, Any]:
    """Blocking. Raises InvalidRequest, UnknownModel."""
    _check_model(body.model, backend)
    ids = _tokens(body, backend)
    strings = list(backend.tokenizer.pieces(ids)) if body.return_token_strs else None
    return {
        "count": len(ids),
        "max_model_len": backend.context_len,
        "tokens": list(ids),
        "token_strs": strings,
    }


def detokenize(body: DetokenizeBody, backend: Backend) -> dict[str, Any]:
    """Blocking; special tokens are written out. Raises InvalidRequest, UnknownModel."""
    _check_model(body.model, backend)
    vocab_size = backend.tokenizer.vocab_size
    for i, token in enumerate(body.tokens):
        if token >= vocab_size:
            raise InvalidRequest(
                f"tokens.{i} is {token}, but token ids here run from 0 to {vocab_size - 1}", f"tokens.{i}"
            )
    return {"prompt": backend.tokenizer.decode(body.tokens, skip_special_tokens=False)}


def _tokens(body: TokenizeBody, backend: Backend) -> tuple[int, ...]:
    if (body.prompt is None) == (body.messages is None):
        raise InvalidRequest("send either prompt or messages", "prompt")
    for name in NOT_SUPPORTED:
        if (body.model_extra or {}).get(name):
            raise InvalidRequest(f"{name} is not supported by this server; leave it out", name)
    if body.prompt is not None:
        return backend.tokenizer.encode(body.prompt, body.add_special_tokens is not False)
    for name, value, only in (
        ("add_generation_prompt", body.add_generation_prompt, True),
        ("continue_final_message", body.continue_final_message, False),
        ("add_special_tokens", body.add_special_tokens, False),
    ):
        if value is not None and value is not only:
            wanted = str(only).lower()
            raise InvalidRequest(f"{name} can only be {wanted} with messages, as it is for answers", name)
    return backend.tokenizer.apply_chat_template(body.messages or ())


def _check_model(model: str | None, backend: Backend) -> None:
    if model is not None and model != backend.model_name:
        raise UnknownModel(model, backend.model_name)
