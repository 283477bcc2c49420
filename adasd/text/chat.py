"""Converts clients' chat messages to the plain form that chat templates take."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from adasd.errors import InvalidRequest

ROLES = ("system", "developer", "user", "assistant")
TOOL = "tool"


def plain_messages(messages: Sequence[Any], with_tools: bool = False) -> list[dict[str, Any]]:
    """``[{role, content, name?}]`` with text contents; raises InvalidRequest naming the part that is wrong.

    Content may be a text or a list of ``{"type": "text", "text": ...}`` parts, joined by line breaks.
    ``developer`` becomes ``system``, the name that templates know. ``with_tools``: the template supports tool calls and
    results, so ``tool`` messages and ``tool_calls`` are allowed. Arguments of calls become objects; those of a
    truncated call stay text.
    """
    if not messages:
        raise InvalidRequest("messages is empty; send at least one message", "messages")
    return [_plain_message(message, f"messages.{i}", with_tools) for i, message in enumerate(messages)]


def with_whole_arguments(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Plain messages in which truncated calls have no arguments."""
    whole = [dict(message) for message in messages]
    for message in whole:
        if "tool_calls" in message:
            message["tool_calls"] = [_whole_call(call) for call in message["tool_calls"]]
    return whole


def _whole_call(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    arguments = {} if isinstance(function["arguments"], str) else function["arguments"]
    return {**call, "function": {**function, "arguments": arguments}}


MAX_DEPTH = 100
"""Of the arguments of a call in the history."""


def check_text(text: str, param: str | None) -> str:
    """Refuse text that tokenizers cannot take: NUL characters and unpaired surrogates."""
    if "\0" in text:
        raise InvalidRequest(f"{param or 'the text'} contains a NUL character; remove it", param)
    try:
        text.encode()
    except UnicodeEncodeError as broken:
        raise InvalidRequest(
            f"{param or 'the text'} has an unpaired surrogate at character {broken.start}; send valid Unicode",
            param,
        ) from None
    return text


def _plain_message(message: Any, where: str, with_tools: bool) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise InvalidRequest(f"{where} must be an object with role and content", where)
    for key in ("function_call", "audio"):
        if message.get(key):
            raise InvalidRequest(f"{where}.{key} is not supported", f"{where}.{key}")
    role, calls = message.get("role"), message.get("tool_calls")
    if not with_tools and (role == TOOL or calls):
        key = "role" if role == TOOL else "tool_calls"
        raise InvalidRequest(
            f"{where}.{key}: the model's chat template does not support tools", f"{where}.{key}"
        )
    roles = (*ROLES, TOOL) if with_tools else ROLES
    if role not in roles:
        raise InvalidRequest(
            f"{where}.role must be one of {', '.join(roles)}, not {role!r:.40}", f"{where}.role"
        )
    content = message.get("content")
    plain: dict[str, Any] = {
        "role": "system" if role == "developer" else role,
        "content": "" if content is None and calls else plain_content(content, f"{where}.content"),
    }
    if calls:
        plain["tool_calls"] = _plain_calls(calls, role, f"{where}.tool_calls")
    if role == TOOL and message.get("tool_call_id") is not None:
        plain["tool_call_id"] = _plain_text(message["tool_call_id"], f"{where}.tool_call_id")
    name = message.get("name")
    if name is not None:
        plain["name"] = _plain_text(name, f"{where}.name")
    return plain


def _plain_calls(calls: Any, role: Any, where: str) -> list[dict[str, Any]]:
    """Earlier calls of the assistant, in the form that templates take."""
    if role != "assistant":
        raise InvalidRequest(f"{where}: only messages of the assistant have tool calls, not {role!r}", where)
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        raise InvalidRequest(f"{where} must be a list of calls", where)
    return [_plain_call(call, f"{where}.{i}") for i, call in enumerate(calls)]


def _plain_call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        raise InvalidRequest(f"{where} must be an object with id, type and function", where)
    arguments = _plain_arguments(function.get("arguments"), f"{where}.function.arguments")
    name = _plain_text(function.get("name"), f"{where}.function.name")
    plain: dict[str, Any] = {"type": "function", "function": {"name": name, "arguments": arguments}}
    if call.get("id") is not None:
        plain["id"] = _plain_text(call["id"], f"{where}.id")
    return plain


def _plain_arguments(arguments: Any, where: str) -> Mapping[str, Any] | str:
    """The arguments as an object; as text if the call was truncated by ``max_tokens`` or a stop string."""
    if isinstance(arguments, str | None):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError:
            return check_text(str(arguments), where)
        except RecursionError:
            raise _too_deep(where) from None
    if not isinstance(arguments, Mapping):
        raise InvalidRequest(f"{where} must be the text of a JSON object", where)
    _check_nested(arguments, where, MAX_DEPTH)
    return arguments


def _check_nested(value: Any, where: str, depth: int) -> None:
    """Refuse what templates and tokenizers cannot take: deep nesting, and half a surrogate pair from an escape."""
    if not depth:
        raise _too_deep(where)
    if isinstance(value, str):
        check_text(value.replace("\0", ""), where)  # it is written as an escape again
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            _check_nested(key, where, depth)
            _check_nested(inner, where, depth - 1)
    elif isinstance(value, Sequence):
        for inner in value:
            _check_nested(inner, where, depth - 1)


def _too_deep(where: str) -> InvalidRequest:
    return InvalidRequest(f"{where} is nested more than {MAX_DEPTH} levels deep", where)


def _plain_text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f"{where} must be a string", where)
    return check_text(value, where)


def plain_content(content: Any, where: str, joint: str = "\n") -> str:
    """The text of a content: a text, or text parts with ``joint`` between them. Raises InvalidRequest."""
    if isinstance(content, str):
        return check_text(content, where)
    if not isinstance(content, Sequence) or not content:
        raise InvalidRequest(f"{where} must be a string or a list of text parts", where)
    return joint.join(_text_part(part, f"{where}.{i}") for i, part in enumerate(content))


def _text_part(part: Any, where: str) -> str:
    if not isinstance(part, Mapping):
        raise InvalidRequest(f"{where} must be an object with type and text", where)
    if part.get("type") != "text":
        raise InvalidRequest(
            f"{where}.type is {part.get('type')!r:.40}; this model takes only parts of type 'text'",
            f"{where}.type",
        )
    return _plain_text(part.get("text"), f"{where}.text")
