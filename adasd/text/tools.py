"""How a model's chat template has tools called, and grammars that admit nothing but valid calls.

HERMES   <tool_call>\\n{"name": "f", "arguments": {...}}\\n</tool_call>   Qwen, Hermes and many others; any number
LLAMA    {"name": "f", "parameters": {...}}                             Llama 3; one, the whole answer
MISTRAL  [{"name": "f", "arguments": {...}}, ...]                       Mistral; the whole answer
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import jinja2
import jinja2.meta
from jinja2.ext import Extension
from jinja2.nodes import Node
from jinja2.parser import Parser

from adasd.requests import Grammar, GrammarKind

OPENING, CLOSING = "<tool_call>", "</tool_call>"
ANY_ARGUMENTS: dict[str, Any] = {"type": "object"}
_AS_TRAINED = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""JSON as Python writes it, which is what templates show to models."""


class ToolForm(StrEnum):
    """How calls are written in the text of an answer."""

    HERMES = "hermes"
    LLAMA = "llama"
    MISTRAL = "mistral"


@dataclass(frozen=True, slots=True)
class Function:
    """One function that the model may call."""

    name: str
    parameters: Mapping[str, Any] = field(
        default_factory=lambda: ANY_ARGUMENTS
    )  # JSON Schema of its arguments


def knows_tools(template: str) -> bool:
    """Whether a chat template does anything with ``tools``."""
    return "tools" in variables(template)


def variables(template: str) -> frozenset[str]:
    """Names that a chat template expects to be told; empty for one that cannot be parsed."""
    environment = jinja2.Environment(extensions=[_Generation, "jinja2.ext.loopcontrols"])
    try:
        return frozenset(jinja2.meta.find_undeclared_variables(environment.parse(template)))
    except jinja2.TemplateSyntaxError:
        return frozenset()


def form_of(template: str) -> ToolForm | None:
    """The form that a template teaches; None if it is none of these."""
    if OPENING in template and "<function=" not in template:
        return ToolForm.HERMES
    if "[TOOL_CALLS]" in template:
        return ToolForm.MISTRAL
    if '"parameters": ' in template or "<|python_tag|>" in template:
        return ToolForm.LLAMA
    return None


def forced_calls(form: ToolForm, functions: Sequence[Function], parallel: bool) -> Grammar:
    """Calls and nothing else: one, or with ``parallel`` one or more where the form knows that."""
    start = {
        ToolForm.HERMES: 'start: tagged ("\\n" tagged)*' if parallel else "start: tagged",
        ToolForm.LLAMA: "start: call",
        ToolForm.MISTRAL: 'start: "[" call (", " call)* "]"' if parallel else 'start: "[" call "]"',
    }[form]
    return _grammar([start, _tagged(), *_calls(form, functions)])


def valid_calls(functions: Sequence[Function]) -> Grammar:
    """Any text in which whatever begins as a call of the form HERMES is a valid one."""
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


def _tagged() -> str:
    return f"tagged: {_quoted(OPENING + chr(10))} call {_quoted(chr(10) + CLOSING)}"


def _calls(form: ToolForm, functions: Sequence[Function]) -> list[str]:
    """Rules: each function's arguments are a JSON document of their own, so references in its schema hold."""
    key = "parameters" if form is ToolForm.LLAMA else "arguments"
    lines = ["call: " + " | ".join(f"call_{i}" for i in range(len(functions)))]
    for i, function in enumerate(functions):
        head = f'{{"name": {json.dumps(function.name)}, "{key}": '
        schema = {**(function.parameters or ANY_ARGUMENTS), "x-guidance": _AS_TRAINED}
        lines += [
            f'call_{i}: {_quoted(head)} arguments_{i} "}}"',
            f"arguments_{i}: %json {json.dumps(schema)}",
        ]
    return lines


def _grammar(lines: Sequence[str]) -> Grammar:
    return Grammar(GrammarKind.LARK, "\n".join(lines) + "\n")


def _quoted(text: str) -> str:
    """A literal of Lark's notation."""
    return json.dumps(text)


class _Generation(Extension):
    """``{% generation %}`` marks the assistant's part for training; here it is looked through."""

    tags = {"generation"}  # noqa: RUF012 (as jinja2 declares it)

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
