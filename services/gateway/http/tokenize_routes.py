"""Text to token ids and back for clients, in vLLM's shapes: ``/tokenize`` and ``/detokenize``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from adasd.errors import InvalidRequest
from services.gateway.backend import Backend
from services.gateway.http.order import continues
from services.gateway.http.schema import MAX_TOOLS, Body, TokenId, Tool
from services.gateway.validation import check_model

MAX_TOKENS = 1_000_000


class TokenizeBody(Body):
    """``POST /tokenize``: a prompt or a conversation."""

    model: str | None = Field(None, max_length=512, description="unset: the only model served")
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    add_special_tokens: bool | None = Field(None, description="unset: true for a prompt, false for messages")
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    chat_template_kwargs: Annotated[dict[str, Any], Field(max_length=64)] | None = None
    return_token_strs: bool | None = Field(None, description="list the tokens as the vocabulary writes them")


class DetokenizeBody(Body):
    """``POST /detokenize``."""

    model: str | None = Field(None, max_length=512, description="unset: the only model served")
    tokens: Annotated[list[TokenId], Field(max_length=MAX_TOKENS)]


def tokenize(body: TokenizeBody, backend: Backend) -> dict[str, Any]:
    """Blocking. Raises InvalidRequest, UnknownModel."""
    _check_body(body, backend)
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
    _check_body(body, backend)
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
    if body.prompt is not None:
        for name in ("tools", "chat_template_kwargs"):
            if getattr(body, name):
                raise InvalidRequest(f"{name} has no meaning for a prompt; send messages", name)
        return backend.tokenizer.encode(body.prompt, body.add_special_tokens is not False)
    if body.add_special_tokens:
        raise InvalidRequest(
            "add_special_tokens can only be false with messages, as it is for answers", "add_special_tokens"
        )
    tools = [tool.sent() for tool in body.tools or ()]
    if tools and not backend.tokenizer.knows_tools:
        raise InvalidRequest("this model's chat template knows no tools; leave tools out", "tools")
    options = body.chat_template_kwargs or {}
    return backend.tokenizer.apply_chat_template(body.messages or (), tools, options, continues(body))


def _check_body(body: TokenizeBody | DetokenizeBody, backend: Backend) -> None:
    check_model(body.model, backend)
    for name, value in (body.model_extra or {}).items():
        if value is not None:
            raise InvalidRequest(f"{name[:64]} is not supported by this server; leave it out", name[:64])
