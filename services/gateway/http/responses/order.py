"""Reads a Responses body as an order, and notes what the response repeats of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from adasd.errors import InvalidRequest
from services.gateway.backend import Backend
from services.gateway.http.order import Order, first_fault, read_chat
from services.gateway.http.responses.as_chat import AsChat, as_chat
from services.gateway.http.responses.body import ResponsesBody
from services.gateway.http.schema import CHAT_BODY, ChatBody


def read_responses(body: ResponsesBody, backend: Backend, answer_id: str) -> Order:
    """Blocking: tokenises. Raises InvalidRequest, ContextTooLong, UnknownModel."""
    chat = as_chat(body)
    try:
        order = read_chat(_chat_body(chat), backend, answer_id)
    except InvalidRequest as error:
        raise chat.named(error) from None
    return replace(order, ignored=(*order.ignored, *chat.ignored), repeated=_repeated(body, order))


def _chat_body(chat: AsChat) -> ChatBody:
    try:
        return CHAT_BODY.model_validate(chat.fields)
    except ValidationError as error:
        raise first_fault(error) from None


def _repeated(body: ResponsesBody, order: Order) -> dict[str, Any]:
    """The fields of a response that say what was asked, with the values in effect."""
    sampling = order.requests[0].sampling
    extra = body.model_extra or {}
    text = body.text.model_dump(by_alias=True, exclude_none=True) if body.text else {}
    return {
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_logprobs": body.top_logprobs or 0,
        "tools": [{"parameters": None, "strict": False, **tool} for tool in body.tools or ()],
        "tool_choice": body.tool_choice or "auto",
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "text": {"format": {"type": "text"}, **text},
        "reasoning": {"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
        "metadata": body.metadata or {},
        "user": body.user,
        "safety_identifier": extra.get("safety_identifier"),
        "prompt_cache_key": extra.get("prompt_cache_key"),
        "truncation": "disabled",
        "previous_response_id": None,
        "store": False,
        "background": False,
    }
