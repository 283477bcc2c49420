"""Forms of tool calls in chat templates, and grammars that allow only valid calls.

HERMES   <tool_call>\\n{"name": "f", "arguments": {...}}\\n</tool_call>   Qwen, Hermes and many others; any number
LLAMA    {"name": "f", "parameters": {...}}                             Llama 3; one call, which is the whole answer
MISTRAL  [{"name": "f", "arguments": {...}}, ...]                       Mistral; the list is the whole answer
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from adasd.requests import Grammar, GrammarKind
from adasd.text.bounded_template import variables

OPENING, CLOSING = "<tool_call>", "</tool_call>"
NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
BLANKS = r"[\x20\x0A\x0D\x09]{1,32}"
"""White space between two JSON tokens, limited so that a model cannot emit it forever."""
_SPECIAL = re.compile(r"[\\.+*?()|\[\]{}^$/]")
"""Characters with a meaning in a regular expression of a Lark grammar."""
_AS_TRAINED = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""JSON as Python writes it, which is how templates show it to models."""
_NAMED_SCHEMAS = frozenset({"properties", "$defs", "definitions", "patternProperties", "dependentSchemas"})
_NO_SCHEMAS = frozenset({"const", "enum", "default", "example", "examples", "required", "allOf"})
_VALUES = frozenset({"const", "enum", "default", "example", "examples"})
"""Keywords whose content is no schema."""
_SAYS_WHETHER_CLOSED = frozenset(
    {"additionalProperties", "unevaluatedProperties", "patternProperties", "allOf"}
)


class ToolForm(StrEnum):
    """How a model writes tool calls in its answer."""

    HERMES = "hermes"
    LLAMA = "llama"
    MISTRAL = "mistral"


@dataclass(frozen=True, slots=True)
class Function:
    """A function that the model may call."""

    name: str
    parameters: Mapping[str, Any] = field(
        default_factory=lambda: NO_ARGUMENTS
    )  # JSON Schema of its arguments


def knows_tools(template: str) -> bool:
    """Whether a chat template uses ``tools``."""
    return "tools" in variables(template)


def form_of(template: str) -> ToolForm | None:
    """The form that a template shows; None if it is not one of ToolForm."""
    if OPENING in template and "<function=" not in template:
        return ToolForm.HERMES
    if "[TOOL_CALLS]" in template:
        return ToolForm.MISTRAL
    if '"parameters": ' in template or "<|python_tag|>" in template:
        return ToolForm.LLAMA
    return None


def forced_calls(form: ToolForm, functions: Sequence[Function], parallel: bool) -> Grammar:
    """Only calls: one, or with ``parallel`` one or more if the form allows that."""
    return _grammar([f"start: {_sequence(form, parallel)}", _tagged(), *_calls(form, functions)])


def calls_or_format(
    form: ToolForm, functions: Sequence[Function], parallel: bool, answer: Grammar
) -> Grammar:
    """Either only calls, or an answer that follows the grammar."""
    if answer.kind is GrammarKind.JSON_SCHEMA and form is ToolForm.LLAMA:
        return _call_or_object(functions, json.loads(answer.text))
    if answer.kind is GrammarKind.JSON_SCHEMA:
        schema = {**json.loads(answer.text), "x-guidance": {"whitespace_pattern": BLANKS}}
        rule = f"%json {json.dumps(schema)}"
    elif answer.kind is GrammarKind.LARK:
        rule = f"%lark {{\n{answer.text}\n}}"
    else:
        rule = "/" + re.sub(r"(\\.)|/", lambda found: found[1] or r"\/", answer.text) + "/"
    start = ["start: calls | answer", f"calls: {_sequence(form, parallel)}", f"answer: {rule}"]
    return _grammar([*start, _tagged(), *_calls(form, functions)])


def _call_or_object(functions: Sequence[Function], answer: Any) -> Grammar:
    """A LLAMA call or an object of the schema ``answer``: one schema, since a lexer cannot tell two objects apart."""
    definitions = {"answer": _moved(answer, "answer")}
    either: list[Any] = [{"$ref": "#/$defs/answer"}]
    for i, function in enumerate(functions):
        definitions[f"arguments_{i}"] = _moved(function.parameters, f"arguments_{i}")
        parts = {"name": {"const": function.name}, "parameters": {"$ref": f"#/$defs/arguments_{i}"}}
        call = {"type": "object", "properties": parts, "required": list(parts), "additionalProperties": False}
        either.append(call)
    return Grammar(GrammarKind.JSON_SCHEMA, json.dumps({"anyOf": either, "$defs": definitions}))


def _moved(schema: Any, name: str) -> Any:
    """A schema that becomes ``$defs.name`` of another one: its references to itself point there."""
    if isinstance(schema, list):
        return [_moved(one, name) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    made = {key: value if key in _VALUES else _moved(value, name) for key, value in schema.items()}
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        made["$ref"] = f"#/$defs/{name}{reference[1:]}"
    return made


def valid_calls(form: ToolForm, functions: Sequence[Function], parallel: bool) -> Grammar:
    """Any text in which every call is valid; for forms whose calls are the whole answer, calls or a text.

    Such a text does not begin with white space or as a call does.
    """
    if form is not ToolForm.HERMES:
        start = ["start: calls | TEXT?", f"calls: {_sequence(form, parallel)}", r"TEXT: /[^\s{\[](?s:.*)/"]
        return _grammar([*start, *_calls(form, functions)])
    return _grammar(
        [
            "start: (before inside after)* TEXT?",
            f"before[suffix={_quoted(OPENING)}]: /(?s:.*)/",
            'inside: "\\n" call',
            f"after: {_quoted(chr(10) + CLOSING)}",
            f"TEXT: /(?s:.*)/ & ~/(?s:.*){OPENING}(?s:.*)/",
            *_calls(ToolForm.HERMES, functions),
        ]
    )


def without_words(words: Sequence[str]) -> Grammar:
    """Any text that contains none of these words."""
    found = "|".join(_SPECIAL.sub(r"\\\g<0>", word).replace("\n", r"\n") for word in words)
    return _grammar(["start: TEXT?", f"TEXT: /(?s:.*)/ & ~/(?s:.*)({found})(?s:.*)/"])


def closed(schema: Any) -> Any:
    """The schema with every object closed unless it specifies otherwise, as OpenAI's ``strict`` requires.

    Parts of ``allOf`` stay open: if closed, they would exclude each other.
    """
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    made: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _NAMED_SCHEMAS and isinstance(value, Mapping):
            made[key] = {name: closed(one) for name, one in value.items()}
        else:
            made[key] = value if key in _NO_SCHEMAS else closed(value)
    kind = schema.get("type")
    if ("properties" in schema or kind == "object" or (isinstance(kind, list) and "object" in kind)) and (
        _SAYS_WHETHER_CLOSED.isdisjoint(schema)
    ):
        made["additionalProperties"] = False
    return made


def _sequence(form: ToolForm, parallel: bool) -> str:
    """Calls as the right-hand side of a rule."""
    return {
        ToolForm.HERMES: 'tagged ("\\n" tagged)*' if parallel else "tagged",
        ToolForm.LLAMA: "call",
        ToolForm.MISTRAL: '"[" call (", " call)* "]"' if parallel else '"[" call "]"',
    }[form]


def _tagged() -> str:
    return f"tagged: {_quoted(OPENING + chr(10))} call {_quoted(chr(10) + CLOSING)}"


def _calls(form: ToolForm, functions: Sequence[Function]) -> list[str]:
    """Rules of the calls. Each call's arguments are a separate JSON document, so that references in a schema work."""
    key = "parameters" if form is ToolForm.LLAMA else "arguments"
    lines = ["call: " + " | ".join(f"call_{i}" for i in range(len(functions)))]
    for i, function in enumerate(functions):
        head = f'{{"name": {json.dumps(function.name)}, "{key}": '
        schema = {**function.parameters, "x-guidance": _AS_TRAINED}
        lines += [
            f'call_{i}: {_quoted(head)} arguments_{i} "}}"',
            f"arguments_{i}: %json {json.dumps(schema)}",
        ]
    return lines


def _grammar(lines: Sequence[str]) -> Grammar:
    return Grammar(GrammarKind.LARK, "\n".join(lines) + "\n")


def _quoted(text: str) -> str:
    """A Lark literal."""
    return json.dumps(text)
