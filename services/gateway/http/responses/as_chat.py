"""A Responses body as the chat body that asks for the same answer.

The chat route then does all the work, so both routes make the same request of the same conversation. Errors name the
fields of the Responses body.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adasd.errors import InvalidRequest
from services.gateway.http.responses.body import ResponsesBody, TextFormat

LOGPROBS = "message.output_text.logprobs"
TEXT_PARTS = ("input_text", "output_text", "text")
STATELESS = "this server stores nothing; send the whole conversation as input"
REFUSED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "previous_response_id": ((), STATELESS),
    "conversation": ((), STATELESS),
    "store": ((False,), "this server stores no responses; leave store out, or send false"),
    "background": ((False,), "this server answers while the client waits; leave background out"),
    "background_options": (({},), "this server answers while the client waits; leave background out"),
    "prompt": ((), "this server stores no prompts; send instructions and input"),
    "truncation": (("disabled",), "this server cuts nothing out of a conversation; shorten the input"),
    "context_management": (([],), "this server cuts nothing out of a conversation; shorten the input"),
    "n": ((1,), "a response holds one answer; send several requests"),
    "messages": ((), "send input"),
    "max_tokens": ((), "send max_output_tokens"),
    "max_completion_tokens": ((), "send max_output_tokens"),
    "n_predict": ((), "send max_output_tokens"),
    "response_format": ((), "send text.format"),
    "prompt_logprobs": ((), "send it to /v1/chat/completions"),
    "logprobs": ((False,), f"send include: [{LOGPROBS!r}], and top_logprobs"),
    "reasoning_effort": ((), "send reasoning.effort"),
}
"""Per field, the values (besides null) that change nothing, and what to do about any other."""

WITHOUT_EFFECT = frozenset({"max_tool_calls", "access_programs", "image"})
"""What concerns OpenAI's own tools, models and images, none of which exist here."""

TRANSLATED = frozenset(
    {"input", "instructions", "max_output_tokens", "tools", "tool_choice", "text", "top_logprobs", "include"}
    | {"reasoning", "stream_options", "metadata"}
)
"""Fields that the chat route has in another form, or not at all; the others are the same there."""

PLACES: Mapping[str, str] = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "response_format.json_schema": "text.format",
    "response_format": "text.format",
    "tool_choice.function": "tool_choice",
    "reasoning_effort": "reasoning.effort",
    "verbosity": "text.verbosity",
}
"""Fields of a chat body, and where the same is in a Responses body."""


@dataclass(frozen=True, slots=True)
class AsChat:
    """The fields of the chat body."""

    fields: dict[str, Any]
    places: Mapping[str, str]  # place in the chat body -> place in the Responses body
    ignored: tuple[str, ...]  # parts of the Responses body that have no effect

    def named(self, error: InvalidRequest) -> InvalidRequest:
        """The error of the chat route, with this route's name for the place."""
        at = error.param or ""
        found = [place for place in self.places if at == place or at.startswith(f"{place}.")]
        if found:
            longest = max(found, key=len)
            error.param = self.places[longest] + at.removeprefix(longest)
            error.message = error.message.replace(at, error.param)
        return error


def as_chat(body: ResponsesBody) -> AsChat:
    """Raises InvalidRequest for what a stateless server of functions alone does not have."""
    extra = body.model_extra or {}
    for name, (neutral, todo) in REFUSED.items():
        value = extra.get(name)
        if value is not None and value not in neutral:
            raise InvalidRequest(f"{name} is not supported by this server: {todo}", name)
    conversation = _conversation(body)
    include = body.include or ()
    fields: dict[str, Any] = {"messages": conversation.messages}
    fields |= {name: value for name, value in extra.items() if name not in {*REFUSED, *WITHOUT_EFFECT}}
    fields |= {name: getattr(body, name) for name in type(body).model_fields if name not in TRANSLATED}
    fields |= {
        "max_completion_tokens": body.max_output_tokens,
        "tools": [_tool(tool, f"tools.{i}") for i, tool in enumerate(body.tools or ())] or None,
        "tool_choice": _tool_choice(body.tool_choice),
        "logprobs": LOGPROBS in include or bool(body.top_logprobs),
        "top_logprobs": body.top_logprobs,
        "reasoning_effort": body.reasoning.effort if body.reasoning else None,
    }
    if body.text is not None:
        fields["verbosity"] = body.text.verbosity
        fields["response_format"] = _response_format(body.text.format)
    places = {f"tools.{i}.function": f"tools.{i}" for i in range(len(body.tools or ()))}
    ignored = (*conversation.ignored, *(f"include.{name}" for name in include if name != LOGPROBS))
    sent = {name: value for name, value in fields.items() if value is not None}
    return AsChat(sent, {**PLACES, **conversation.places, **places}, ignored)


def _response_format(form: TextFormat | None) -> dict[str, Any] | None:
    if form is None or form.type != "json_schema":
        return None if form is None else {"type": form.type}
    schema = form.model_dump(by_alias=True, exclude={"type"}, exclude_none=True)
    return {"type": "json_schema", "json_schema": schema}


def _tool(tool: Mapping[str, Any], where: str) -> dict[str, Any]:
    if tool.get("type") != "function":
        raise InvalidRequest(
            f"{where}.type is {tool.get('type')!r:.40}; this server has no tools of its own, it takes only functions",
            f"{where}.type",
        )
    return {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}}


def _tool_choice(choice: Any) -> Any:
    """The chat route judges a text; of objects only a function's name is taken."""
    if not isinstance(choice, Mapping):
        return choice
    if choice.get("type") != "function":
        raise InvalidRequest(
            f"tool_choice.type is {choice.get('type')!r:.40}; possible: 'function', with the name of one of tools",
            "tool_choice.type",
        )
    return {"type": "function", "function": {"name": choice.get("name")}}


@dataclass(slots=True)
class _Conversation:
    """Chat messages, where each part of them came from, and items without effect."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)

    def say(self, message: dict[str, Any], where: str, content: str) -> None:
        """Add a message; ``where`` it was, and where its content was."""
        at = f"messages.{len(self.messages)}"
        self.places |= {at: where, f"{at}.content": content}
        self.messages.append(message)

    def call(self, item: Mapping[str, Any], where: str) -> None:
        """Add a call to the assistant's message, which may hold several."""
        if not self.messages or self.messages[-1]["role"] != "assistant":
            self.say({"role": "assistant", "content": None}, where, where)
        calls = self.messages[-1].setdefault("tool_calls", [])
        at = f"messages.{len(self.messages) - 1}.tool_calls.{len(calls)}"
        self.places |= {at: where, f"{at}.function": where, f"{at}.id": f"{where}.call_id"}
        function = {name: item.get(name) for name in ("name", "arguments")}
        calls.append({"id": item.get("call_id"), "type": "function", "function": function})


def _conversation(body: ResponsesBody) -> _Conversation:
    made = _Conversation()
    if body.instructions:
        made.say({"role": "system", "content": body.instructions}, "instructions", "instructions")
    if isinstance(body.input, str):
        made.say({"role": "user", "content": body.input}, "input", "input")
        return made
    if not isinstance(body.input, list) or not body.input:
        raise InvalidRequest("input must be a text or a list of items, at least one", "input")
    for i, item in enumerate(body.input):
        _add(item, f"input.{i}", made)
    return made


def _add(item: Any, where: str, made: _Conversation) -> None:
    if not isinstance(item, Mapping):
        raise InvalidRequest(f"{where} must be an object with type, or with role and content", where)
    match item.get("type") or "message":
        case "message":
            message = {"role": item.get("role"), "content": _parts(item.get("content"))}
            made.say(message, where, f"{where}.content")
        case "function_call":
            made.call(item, where)
        case "function_call_output":
            output = {
                "role": "tool",
                "tool_call_id": item.get("call_id"),
                "content": _parts(item.get("output")),
            }
            made.places[f"messages.{len(made.messages)}.tool_call_id"] = f"{where}.call_id"
            made.say(output, where, f"{where}.output")
        case "reasoning":
            made.ignored.append(where)  # thoughts of another server's model, in words that no template has
        case other:
            raise InvalidRequest(
                f"{where}.type is {other!r:.40}; this server takes message, function_call and function_call_output",
                f"{where}.type",
            )


def _parts(content: Any) -> Any:
    """Content whose text parts have the chat route's name, which judges all others."""
    if not isinstance(content, Sequence) or isinstance(content, str):
        return content
    return [_part(part) for part in content]


def _part(part: Any) -> Any:
    if isinstance(part, Mapping) and part.get("type") in TEXT_PARTS:
        return {"type": "text", "text": part.get("text")}
    if isinstance(part, Mapping) and part.get("type") == "refusal":
        return {"type": "text", "text": part.get("refusal")}
    return part
