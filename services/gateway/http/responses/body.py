"""The body of ``POST /v1/responses``: types and ranges, nothing that needs a model."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from adasd.requests import GenerationRequest, SamplingParams
from services.gateway.http.schema import MAX_TOOLS, Body, Closed, Known, Speculation, with_options

INPUT_MESSAGE: dict[str, Any] = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {
        "type": {"const": "message"},
        "role": {"enum": ["user", "assistant", "system", "developer"]},
        "content": {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "required": ["type", "text"],
                        "properties": {
                            "type": {"enum": ["input_text", "output_text"]},
                            "text": {"type": "string"},
                        },
                    },
                },
            ]
        },
    },
}
FUNCTION_CALL: dict[str, Any] = {
    "type": "object",
    "required": ["type", "call_id", "name", "arguments"],
    "properties": {
        "type": {"const": "function_call"},
        **{name: {"type": "string"} for name in ("call_id", "name", "arguments")},
    },
}
FUNCTION_CALL_OUTPUT: dict[str, Any] = {
    "type": "object",
    "required": ["type", "call_id", "output"],
    "properties": {
        "type": {"const": "function_call_output"},
        "call_id": {"type": "string"},
        "output": {"type": "string"},
    },
}
TOOL: dict[str, Any] = {
    "type": "object",
    "required": ["type", "name"],
    "properties": {
        "type": {"const": "function"},
        "name": {"type": "string", "pattern": "^[a-zA-Z0-9_.-]{1,64}$"},
        "description": {"type": "string"},
        "parameters": {"type": "object"},
        "strict": {"type": "boolean"},
    },
}
"""These shapes are for the document; services.gateway.http.responses.as_chat judges the objects."""


class TextFormat(Closed):
    """``text.format``: what the answer looks like."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = Field(None, pattern=r"^[a-zA-Z0-9_-]{1,64}$", description="of the schema")
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema", description="JSON Schema of the answer")
    strict: bool | None = None


class TextOptions(Closed):
    """What the text of the answer is."""

    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = Field(None, description="medium only")


class Reasoning(Known):
    """Options of thinking models."""

    effort: str | None = Field(None, description="honoured where the chat template has reasoning_effort")


class ResponseStreamOptions(Closed):
    """Options of a stream."""

    include_obfuscation: bool | None = Field(
        None, description="taken, without effect: nothing is padded here"
    )


class ResponsesBody(Body):
    """``POST /v1/responses``, stateless: the input is the whole conversation."""

    model: str | None = Field(None, max_length=512, description="unset: the only model served")
    input: Any = Field(
        description="a text, or a list of messages, function calls and their outputs",
        json_schema_extra={
            "anyOf": [
                {"type": "string"},
                {
                    "type": "array",
                    "minItems": 1,
                    "items": {"anyOf": [INPUT_MESSAGE, FUNCTION_CALL, FUNCTION_CALL_OUTPUT]},
                },
            ]
        },
    )
    instructions: str | None = Field(None, description="system message in front of the input")
    max_output_tokens: int | None = Field(
        None, description="tokens of the answer at most; unset: what fits into the context"
    )
    tools: Annotated[list[dict[str, Any]], Field(max_length=MAX_TOOLS)] | None = Field(
        None, json_schema_extra={"items": TOOL}, description="functions that the model may call"
    )
    tool_choice: Any = Field(
        None,
        description="auto, none, required, or {type: function, name}; unset: auto with tools",
        json_schema_extra={
            "anyOf": [
                {"enum": ["auto", "none", "required"]},
                {
                    "type": "object",
                    "required": ["type", "name"],
                    "properties": {"type": {"const": "function"}, "name": {"type": "string"}},
                },
                {"type": "null"},
            ]
        },
    )
    parallel_tool_calls: bool | None = Field(None, description="false: one call at most")
    text: TextOptions | None = None
    top_logprobs: int | None = Field(None, description="likeliest tokens beside each token of the text")
    include: list[str] | None = Field(
        None, description="message.output_text.logprobs; others have no effect here"
    )
    reasoning: Reasoning | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    metadata: dict[str, Any] | None = Field(None, description="repeated in the response")
    user: str | None = None
    speculation: Speculation | None = None
    return_prediction_tokens: bool | None = Field(
        None, description="count drafted tokens in `usage.output_tokens_details`"
    )
    return_token_provenance: bool | None = Field(
        None, description="list every token with its text and where it came from, as `adasd` of the response"
    )


RESPONSES_BODY = with_options(ResponsesBody, SamplingParams, GenerationRequest, without=("max_tokens",))
