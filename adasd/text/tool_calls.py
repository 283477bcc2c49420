"""Parses tool calls from a streamed answer.

Text is passed on at once. A call is reported as soon as its name is known, then its arguments in fragments that add up
to JSON. Anything that turns out not to be a call is passed on as text, so no part of an answer is lost.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from adasd.text.stop_strings import partial_stop_len
from adasd.text.tools import CLOSING, OPENING, ToolForm

_NAME = r'"(?:[^"\\]|\\.)*"'
_HEAD = re.compile(rf'\s*\{{\s*"name"\s*:\s*({_NAME})\s*,\s*"(?:arguments|parameters)"\s*:\s*')
"""Start of a call whose arguments can be streamed."""


_KEYS = frozenset({"name", "arguments", "parameters", "id", "type"})
"""Keys of a call; a bare object with others is an answer."""


@dataclass(frozen=True, slots=True)
class Said:
    """Text of the answer outside of calls."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    """The start of a call; ``index`` counts from 0."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """A fragment of a call's arguments (JSON text)."""

    index: int
    text: str


Found = Said | CallBegun | Arguments


class CallParser(Protocol):
    """Parses one answer."""

    def push(self, text: str) -> list[Found]:
        """The items that are certain after this text."""
        ...

    def flush(self) -> list[Found]:
        """The remaining items, at the end of the answer."""
        ...

    @property
    def in_call(self) -> bool:
        """Whether a call has begun and is not complete."""
        ...


def parser_of(form: ToolForm, names: Iterable[str]) -> CallParser:
    """A parser for one answer; ``names`` are the available functions."""
    return _Tagged() if form is ToolForm.HERMES else _Bare(frozenset(names))


class _Call:
    """Parses one JSON object of name and arguments, character by character."""

    def __init__(self, index: int, names: frozenset[str] | None = None) -> None:
        self.raw, self.begun, self.complete, self.broken = "", False, False, False
        self._index, self._names = index, names
        self._depth, self._in_string, self._escaped = 0, False, False
        self._told: int | None = None  # characters of ``raw`` before or in reported arguments
        self._arguments_end: int | None = None
        self._name = ""

    def push(self, text: str) -> tuple[list[Found], str]:
        """The items that are certain after this text, and the text after the object."""
        for position, character in enumerate(text):
            if self._lacks_its_end(character):
                self.complete = True
                return self._found(), text[position:]
            self._scan(character)
            if self.complete or self.broken:
                return self._found(), text[position + 1 :]
        return self._found(), ""

    def _scan(self, character: str) -> None:
        if not self._depth and not character.isspace() and character != "{":
            self.broken = True
        elif character == "{" and self._depth == 1 and not self._in_string and self._told is None:
            self._look_at_head()
        self.raw += character
        if self._in_string:
            if self._escaped:
                self._escaped = False
            elif character == "\\":
                self._escaped = True
            elif character == '"':
                self._in_string = False
        elif character == '"':
            self._in_string = True
        elif character in "{[":
            self._depth += 1
        elif character in "}]":
            self._depth -= 1
            if self._depth == 1 and self._told is not None and self._arguments_end is None:
                self._arguments_end = len(self.raw)
            self.complete = self._depth == 0

    def _lacks_its_end(self, character: str) -> bool:
        """Whether the last brace is missing, as small models forget it: the arguments are whole, and a tag follows."""
        return self._arguments_end is not None and not self._in_string and character == "<"

    def _look_at_head(self) -> None:
        head = _HEAD.fullmatch(self.raw)
        name = _name(head[1]) if head else None
        if name is not None and (self._names is None or name in self._names):
            self._told, self._name = len(self.raw), name

    def _found(self) -> list[Found]:
        found: list[Found] = []
        if self._told is None:
            return self._whole() if self.complete else []
        if not self.begun:
            found.append(CallBegun(self._index, self._name))
            self.begun = True
        end = len(self.raw) if self._arguments_end is None else self._arguments_end
        if end > self._told:
            found.append(Arguments(self._index, self.raw[self._told : end]))
            self._told = end
        return found

    def _whole(self) -> list[Found]:
        """A complete object whose arguments could not be streamed."""
        try:
            call = json.loads(self.raw)
            name, arguments = call["name"], call.get("arguments", call.get("parameters", {}))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            self.broken = True
            return []
        names = self._names
        if (
            not isinstance(name, str)
            or not _is_unicode(name)
            or (names is not None and not (name in names and _KEYS.issuperset(call)))
        ):
            self.broken = True
            return []
        self.begun = True
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        text = text.encode(errors="backslashreplace").decode()  # half a pair stays the escape that it was
        return [CallBegun(self._index, name), Arguments(self._index, text)]


def _name(written: str) -> str | None:
    """A function's name from its JSON string; None if that is broken, as by escapes of Markdown."""
    try:
        name: str = json.loads(written)
    except ValueError:
        return None
    return name if _is_unicode(name) else None


def _is_unicode(text: str) -> bool:
    """Whether it has no half of a surrogate pair, which no response can carry."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Tagged:
    """Calls between ``<tool_call>`` and ``</tool_call>``; everything else is text."""

    def __init__(self) -> None:
        self._num_calls = 0
        self._waiting = ""  # text that may begin a tag, or white space before one
        self._space = ""  # white space before the tag of the call
        self._call: _Call | None = None
        self._behind: str | None = None  # text after a complete call, before its closing tag

    def push(self, text: str) -> list[Found]:
        found: list[Found] = []
        while text:
            if self._call is None:
                text = self._outside(text, found)
            elif self._behind is None:
                text = self._inside(text, found)
            else:
                text = self._closing(text)
        return _joined(found)

    def flush(self) -> list[Found]:
        found: list[Found] = []
        if self._call is not None and not self._call.begun:
            found.append(Said(self._space + OPENING + self._call.raw))
        elif self._call is None and self._waiting and (self._waiting.strip() or not self._num_calls):
            found.append(Said(self._waiting))
        self._call, self._waiting = None, ""
        return found

    @property
    def in_call(self) -> bool:
        return self._call is not None and not self._call.complete

    def _outside(self, text: str, found: list[Found]) -> str:
        waiting = self._waiting + text
        start = waiting.find(OPENING)
        if start >= 0:
            before = waiting[:start].rstrip()
            if before:
                found.append(Said(before))
            self._waiting, self._space = "", waiting[len(before) : start]
            self._call = _Call(self._num_calls)
            return waiting[start + len(OPENING) :]
        shown = waiting[: len(waiting) - partial_stop_len(waiting, (OPENING,))].rstrip()
        if shown:
            found.append(Said(shown))
        self._waiting = waiting[len(shown) :]
        return ""

    def _inside(self, text: str, found: list[Found]) -> str:
        assert self._call is not None
        news, rest = self._call.push(text)
        found += news
        if self._call.begun and self._call.complete:
            self._behind = ""
            self._num_calls += 1
        elif self._call.broken:
            found.append(Said(self._space + OPENING + self._call.raw))
            self._call = None
        return rest

    def _closing(self, text: str) -> str:
        """Skip the closing tag. If it is missing, the rest is text."""
        behind = (self._behind or "") + text
        end = behind.find(CLOSING)
        if end >= 0:
            self._call = self._behind = None
            return behind[end + len(CLOSING) :]
        if behind.lstrip() and not CLOSING.startswith(behind.lstrip()):
            self._call = self._behind = None
            return behind
        self._behind = behind
        return ""


class _Bare:
    """The whole answer is one call or a list of calls; any other answer is text."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names, self._num_calls = names, 0
        self._waiting = ""  # text between calls
        self._call: _Call | None = None
        self._is_text = False

    def push(self, text: str) -> list[Found]:
        found: list[Found] = []
        while text and not self._is_text:
            if self._call is None:
                text = self._between(text, found)
                continue
            news, text = self._call.push(text)
            found += news
            if self._call.broken:
                self._give_up(found)
            elif self._call.complete:
                self._num_calls, self._call, self._waiting = self._num_calls + 1, None, ""
        if text:
            found.append(Said(text))
        return _joined(found)

    def flush(self) -> list[Found]:
        found: list[Found] = []
        if not self._is_text and not (self._call and self._call.begun):
            self._give_up(found)
        return _joined(found)

    @property
    def in_call(self) -> bool:
        return self._call is not None

    def _between(self, text: str, found: list[Found]) -> str:
        for position, character in enumerate(text):
            if character == "{":
                self._call = _Call(self._num_calls, self._names)
                return text[position:]
            self._waiting += character
            allowed = ",;]" if self._num_calls else "["
            if not character.isspace() and character not in allowed:
                self._give_up(found)
                return text[position + 1 :]
        return ""

    def _give_up(self, found: list[Found]) -> None:
        """Treat the rest as text, except separators after calls."""
        waiting = self._waiting + (self._call.raw if self._call else "")
        shown = waiting.lstrip(",;] \n\t\r") if self._num_calls else waiting
        self._is_text, self._call, self._waiting = True, None, ""
        if shown:
            found.append(Said(shown))


def _joined(found: list[Found]) -> list[Found]:
    """Merge adjacent items of the same kind."""
    joined: list[Found] = []
    for one in found:
        last = joined[-1] if joined else None
        if isinstance(one, Said) and isinstance(last, Said):
            joined[-1] = Said(last.text + one.text)
        elif isinstance(one, Arguments) and isinstance(last, Arguments) and one.index == last.index:
            joined[-1] = Arguments(one.index, last.text + one.text)
        else:
            joined.append(one)
    return joined
