"""Tools of a chat request: what the model is told about them, the grammar of its calls, and how calls are returned."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from adasd.errors import InvalidRequest
from adasd.requests import Grammar
from adasd.text.chat import check_text
from adasd.text.tool_calls import Arguments, CallBegun, CallParser, Found, Said, parser_of
from adasd.text.tools import (
    NO_ARGUMENTS,
    Function,
    ToolForm,
    calls_or_format,
    closed,
    forced_calls,
    valid_calls,
)
from services.gateway.backend import Text
from services.gateway.http.schema import ChatBody, FunctionTool, NamedTool


@dataclass(frozen=True, slots=True)
class ToolUse:
    """Tools that this answer may or must call."""

    tools: tuple[dict[str, Any], ...]  # as sent; the template shows them to the model
    functions: tuple[Function, ...]  # those that the answer may call
    form: ToolForm
    parallel: bool  # more than one call is allowed
    grammar: Grammar | None  # set if calls are forced, or must be valid
    only_calls: bool = False  # the answer must consist of calls

    def reader(self) -> CallReader:
        """A new reader for one answer."""
        return CallReader(self, parser_of(self.form, (function.name for function in self.functions)))

    def or_format(self, answer: Grammar, where: str) -> Grammar:
        """A grammar that allows calls or an answer of this format. Raises InvalidRequest naming the field."""
        if where == "bad_words" and self.grammar is None:
            return answer
        if where == "bad_words":
            raise InvalidRequest("bad_words cannot be combined with calls that must be valid", where)
        if self.only_calls:
            assert self.grammar is not None
            return self.grammar
        return calls_or_format(self.form, self.functions, self.parallel, answer)


def tool_use(body: ChatBody, text: Text) -> ToolUse | None:
    """None if no tool may be called. Raises InvalidRequest for tools that this model cannot use."""
    choice = body.tool_choice or ("auto" if body.tools else "none")
    if not body.tools:
        if choice not in ("none", "auto"):
            raise InvalidRequest(
                "tool_choice asks for a call, but there are no tools; send tools", "tool_choice"
            )
        return None
    _check_functions([tool.function for tool in body.tools])
    if choice == "none":
        return None
    if not text.knows_tools:
        raise InvalidRequest(
            "this model's chat template knows no tools; leave tools out, or ask for JSON by response_format",
            "tools",
        )
    functions = tuple(Function(tool.function.name, _parameters(tool.function)) for tool in body.tools)
    parallel = body.parallel_tool_calls is not False
    if isinstance(choice, NamedTool):
        functions, parallel = _named(functions, choice.function.name), False
    form = text.tool_form or ToolForm.HERMES
    grammar = None
    if choice != "auto":
        grammar = forced_calls(form, functions, parallel)
    elif text.tool_form is None:
        raise InvalidRequest(
            "how this model writes calls is not known to this server; tool_choice 'required' or a function's name "
            "works, for then the server says how",
            "tool_choice",
        )
    elif any(tool.function.strict for tool in body.tools):
        grammar = valid_calls(form, functions, parallel)
    return ToolUse(
        tuple(tool.sent() for tool in body.tools),
        functions,
        form,
        parallel,
        grammar,
        only_calls=choice != "auto",
    )


def _parameters(function: FunctionTool) -> dict[str, Any]:
    """The schema of a function's arguments; a function without parameters takes none."""
    schema = function.parameters
    if not schema or (schema.get("properties") == {} and "additionalProperties" not in schema):
        return {**(schema or {}), **NO_ARGUMENTS}
    return dict(closed(schema)) if function.strict else schema


def _check_functions(functions: Sequence[FunctionTool]) -> None:
    for i, function in enumerate(functions):
        if function.name in [other.name for other in functions[:i]]:
            raise InvalidRequest(
                f"two tools have the name {function.name!r}; rename one", f"tools.{i}.function.name"
            )
        check_text(function.description or "", f"tools.{i}.function.description")


def _named(functions: tuple[Function, ...], name: str) -> tuple[Function, ...]:
    chosen = tuple(function for function in functions if function.name == name)
    if not chosen:
        known = ", ".join(function.name for function in functions)
        raise InvalidRequest(
            f"tool_choice names the function {name!r:.80}, but tools has {known:.200}",
            "tool_choice.function.name",
        )
    return chosen


class CallReader:
    """Splits one answer's text into shown text and calls; gives each call an id."""

    def __init__(self, use: ToolUse, parser: CallParser) -> None:
        self._use, self._parser = use, parser
        self._num_calls = 0
        self._is_cut = False

    @property
    def has_called(self) -> bool:
        """Whether the answer ends with calls that are complete."""
        return self._num_calls > 0 and not self._is_cut

    def read(self, text: str, last: bool) -> tuple[str, tuple[dict[str, Any], ...]]:
        """Text to show, and OpenAI's ``tool_calls`` deltas: one entry per call.

        The text of a forced call before its name is complete is never shown, even if the answer is cut there.
        """
        found = self._parser.push(text)
        if last:
            self._is_cut = self._parser.in_call
            found += self._parser.flush()
        said = "" if self._use.only_calls else "".join(one.text for one in found if isinstance(one, Said))
        deltas: dict[int, dict[str, Any]] = {}
        for one in self._wanted(found):
            if isinstance(one, Arguments) and one.index in deltas:
                deltas[one.index]["function"]["arguments"] += one.text
            else:
                deltas[one.index] = self._delta(one)
        return said, tuple(deltas.values())

    def _wanted(self, found: Iterable[Found]) -> Iterable[CallBegun | Arguments]:
        for one in found:
            if not isinstance(one, Said) and (self._use.parallel or one.index == 0):
                yield one

    def _delta(self, one: CallBegun | Arguments) -> dict[str, Any]:
        if isinstance(one, Arguments):
            return {"index": one.index, "function": {"arguments": one.text}}
        self._num_calls += 1
        function = {"name": one.name, "arguments": ""}
        return {
            "index": one.index,
            "id": f"call_{uuid.uuid4().hex[:24]}",
            "type": "function",
            "function": function,
        }


def whole_calls(deltas: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The calls that these deltas add up to, as a whole message lists them."""
    calls: dict[int, dict[str, Any]] = {}
    for delta in deltas:
        function = delta["function"]
        if "id" in delta:
            calls[delta["index"]] = {"id": delta["id"], "type": "function", "function": dict(function)}
        else:
            calls[delta["index"]]["function"]["arguments"] += function["arguments"]
    return list(calls.values())
