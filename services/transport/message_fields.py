"""Converts frozen dataclasses to protobuf messages and back, matching fields by name.

None and values equal to a field's default are not sent. A field missing from the message raises KeyError: add it to
the .proto file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import cache
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from adasd.errors import InvalidRequest

T = TypeVar("T")


def fill(message: Message, value: Any, without: tuple[str, ...] = ()) -> None:
    """Set the message's fields to those of the dataclass ``value``, except those in ``without``."""
    for one in dataclasses.fields(value):
        content = getattr(value, one.name)
        if one.name in without or content is None or content == one.default:
            continue
        field = message.DESCRIPTOR.fields_by_name[one.name]
        if _is_map(field):
            getattr(message, one.name).update(dict(content))
        elif field.is_repeated and field.message_type is not None:
            for part in content:
                fill(getattr(message, one.name).add(), part)
        elif field.is_repeated:
            getattr(message, one.name).extend(content)
        elif field.message_type is not None:
            getattr(message, one.name).SetInParent()
            fill(getattr(message, one.name), content)
        else:
            setattr(message, one.name, content)


def read(message: Message, kind: Callable[..., T], where: str = "", **known: Any) -> T:
    """The dataclass that ``fill`` converted to this message; ``known`` holds fields not to be read.

    Raises InvalidRequest for a text that is not in an enumeration, naming the field with ``where`` as prefix.
    """
    for one in dataclasses.fields(kind):  # type: ignore[arg-type]
        if one.name in known:
            continue
        field = message.DESCRIPTOR.fields_by_name[one.name]
        if field.has_presence and not message.HasField(one.name):
            if one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING:
                known[one.name] = None
            continue
        known[one.name] = _content(
            getattr(message, one.name), field, _types(kind)[one.name], where + one.name
        )
    return kind(**known)


def _content(content: Any, field: FieldDescriptor, kind: Any, where: str) -> Any:
    inner, may_be_none = _inner(kind)
    if _is_map(field):
        return tuple(sorted(content.items()))
    if field.is_repeated and field.message_type is not None:
        return tuple(read(part, inner, f"{where}.") for part in content)
    if field.is_repeated:
        return tuple(content)
    if field.message_type is not None:
        return read(content, inner, f"{where}.")
    if isinstance(inner, type) and issubclass(inner, StrEnum):
        return enum_value(inner, content, where)
    return None if may_be_none and not field.has_presence and content == "" else content


def enum_value(kind: type[StrEnum], text: Any, where: str) -> StrEnum:
    """The enum member with this text; raises InvalidRequest listing the members."""
    if text not in list(kind):
        raise InvalidRequest(f"{where} is {str(text)[:64]!r}; possible: {', '.join(kind)}", where)
    return kind(text)


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


@cache
def _types(kind: Any) -> Mapping[str, Any]:
    return get_type_hints(kind)


@cache
def _inner(kind: Any) -> tuple[Any, bool]:
    """The type of one entry, and whether it may be None."""
    if get_origin(kind) is tuple:
        return get_args(kind)[0], False
    if get_origin(kind) is UnionType:
        one, *_ = (part for part in get_args(kind) if part is not type(None))
        return one, True
    return kind, False
