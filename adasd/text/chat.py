"""Chat messages as clients send them, brought to the plain shape that chat templates understand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adasd.errors import InvalidRequest

ROLES = ("system", "developer", "user", "assistant")


def plain_messages(messages: Sequence[Any]) -> list[dict[str, str]]:
    """``[{role, content, name?}]`` with text contents; raises InvalidRequest naming the part that is wrong.

    Content may be a text or a list of ``{"type": "text", "text": ...}`` parts, joined by line breaks.
    ``developer`` becomes ``system``, the name that templates know.
    """
    if not messages:
        raise InvalidRequest("messages is empty; send at least one message", "messages")
    return [_plain_message(message, f"messages.{i}") for i, message in enumerate(messages)]


def check_text(text: str, param: str | None) -> str:
    """Refuse text that no tokenizer can take: NUL characters and halves of surrogate pairs."""
    if "\0" in text:
        raise InvalidRequest(f"{param or 'the text'} contains a NUL character; remove it", param)
    try:
        text.encode()
    except UnicodeEncodeError as broken:
        raise InvalidRequest(
            f"{param or 'the text'} has half a surrogate pair at {broken.start}; send valid Unicode",
            param,
        ) from None
    return text


def _plain_message(message: Any, where: str) -> dict[str, str]:
    if not isinstance(message, Mapping):
        raise InvalidRequest(f"{where} must be an object with role and content", where)
    for key in ("tool_calls", "function_call", "audio"):
        if message.get(key):
            raise InvalidRequest(f"{where}.{key} is not supported", f"{where}.{key}")
    role = message.get("role")
    if role not in ROLES:
        raise InvalidRequest(
            f"{where}.role must be one of {', '.join(ROLES)}, not {role!r:.40}", f"{where}.role"
        )
    plain = {
        "role": "system" if role == "developer" else role,
        "content": _plain_content(message.get("content"), f"{where}.content"),
    }
    name = message.get("name")
    if name is not None:
        if not isinstance(name, str):
            raise InvalidRequest(f"{where}.name must be a string", f"{where}.name")
        plain["name"] = check_text(name, f"{where}.name")
    return plain


def _plain_content(content: Any, where: str) -> str:
    if isinstance(content, str):
        return check_text(content, where)
    if not isinstance(content, Sequence) or not content:
        raise InvalidRequest(f"{where} must be a string or a list of text parts", where)
    return "\n".join(_text_part(part, f"{where}.{i}") for i, part in enumerate(content))


def _text_part(part: Any, where: str) -> str:
    if not isinstance(part, Mapping):
        raise InvalidRequest(f"{where} must be an object with type and text", where)
    if part.get("type") != "text":
        raise InvalidRequest(
            f"{where}.type is {part.get('type')!r:.40}; this model takes parts of type 'text' alone",
            f"{where}.type",
        )
    text = part.get("text")
    if not isinstance(text, str):
        raise InvalidRequest(f"{where}.text must be a string", f"{where}.text")
    return check_text(text, f"{where}.text")
