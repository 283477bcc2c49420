"""Bodies of the OpenAI routes as clients may send them: types and ranges, nothing that needs a model.

Strict JSON types (neither ``true`` nor ``"1"`` is a number), finite numbers only; ``null`` means unset.
Unknown top-level fields are kept, so that they can be reported.

The options of a request are defined only in adasd.requests: ``with_options`` adds their names, types and ranges to a
body. These ranges are documentation; services.gateway.validation checks them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model

from adasd.requests import (
    MAX_TOKEN_ID,
    GenerationRequest,
    RequestOption,
    SamplingParams,
    SpeculationOptions,
    TextOptions,
    options_of,
)
from adasd.text.chat import ROLES

MAX_PROMPTS = 32
MAX_CHOICES = 128
MAX_GUIDED_CHOICES = 1024
MAX_TOOLS = 128
BAD_WORDS = options_of(TextOptions)["bad_words"]


TEXT_PART: dict[str, Any] = {
    "type": "object",
    "required": ["type", "text"],
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
}
MESSAGE: dict[str, Any] = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {
        "role": {"enum": list(ROLES)},
        "name": {"type": "string"},
        "content": {
            "anyOf": [{"type": "string"}, {"type": "array", "minItems": 1, "items": TEXT_PART}],
        },
    },
}
"""The shape of a message that adasd.text.chat accepts; for the document, not checked here."""


def _listed(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else stop


ChoiceText = Annotated[str, Field(min_length=1, max_length=256)]
Choices = Annotated[list[ChoiceText], Field(min_length=1, max_length=MAX_GUIDED_CHOICES)]
TokenId = Annotated[int, Field(ge=0, le=MAX_TOKEN_ID)]


BodyT = TypeVar("BodyT", bound="Body")


class Body(BaseModel):
    """Common rules of all bodies."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, validate_default=False)


class Closed(Body):
    """An object whose unknown fields are refused: they would change the answer."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class Known(Body):
    """An object whose unknown fields have no effect here."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class Speculation(Closed):
    """The request extension ``speculation``; unset fields take the deployment's defaults."""


class StreamOptions(Closed):
    """What a stream reports besides text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = Field(None, description="running usage in every chunk")
    include_obfuscation: bool | None = Field(
        None, description="taken, without effect: nothing is padded here"
    )


class JsonSchema(Closed):
    """The schema of ``response_format``. It always holds, ``strict`` or not."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema", description="unset: any JSON")
    strict: bool | None = None


class ResponseFormat(Closed):
    """OpenAI's ``response_format``."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StructuredOutputs(Closed):
    """vLLM's ``structured_outputs``: one of these."""

    json_: dict[str, Any] | str | None = Field(None, alias="json", description="JSON Schema, also as text")
    regex: str | None = None
    choice: Choices | None = Field(None, description="the answer is one of these texts")
    grammar: str | None = Field(None, description="context-free grammar in Lark's notation")
    json_object: bool | None = None


class FunctionTool(Known):
    """A function that the model may call."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = Field(None, description="JSON Schema of the arguments, an object")
    strict: bool | None = Field(None, description="every call has valid arguments")


class Tool(Known):
    """OpenAI's tool object; functions are the only kind."""

    type: Literal["function"]
    function: FunctionTool

    def sent(self) -> dict[str, Any]:
        """What the model is told: the fields that were sent and are known."""
        return {"type": self.type, "function": self.function.model_dump(exclude_unset=True)}


class FunctionName(Known):
    """Names one of ``tools``."""

    name: str = Field(max_length=64)


class NamedTool(Known):
    """``tool_choice``: this function has to be called."""

    type: Literal["function"]
    function: FunctionName


class Prediction(Closed):
    """OpenAI's predicted output."""

    type: Literal["content"]
    content: Any = Field(
        description="a text, or a list of text parts",
        json_schema_extra={"anyOf": [{"type": "string"}, {"type": "array", "items": TEXT_PART}]},
    )


class GenerationBody(Body):
    """What both routes take."""

    model: str | None = Field(None, max_length=512, description="unset: the only model served")
    n: int | None = Field(
        None, ge=1, le=MAX_CHOICES, description="answers per prompt, independent of each other"
    )
    best_of: int | None = Field(None, ge=1, description="nothing but n itself: no answer is thrown away")
    user: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    speculation: Speculation | None = None
    response_format: ResponseFormat | None = Field(None, description="text, json_object or json_schema")
    structured_outputs: StructuredOutputs | None = Field(None, description="vLLM's name for grammars")
    guided_json: dict[str, Any] | str | None = Field(None, description="vLLM's older names for the same")
    guided_regex: str | None = None
    guided_choice: Choices | None = None
    guided_grammar: str | None = None
    json_schema: dict[str, Any] | str | None = Field(None, description="llama.cpp's name for the same")
    bad_words: Annotated[list[ChoiceText], Field(max_length=BAD_WORDS.max_items)] | None = Field(
        None, description=BAD_WORDS.sentence
    )
    prompt_logprobs: int | None = Field(
        None, description="log-probabilities of the prompt's tokens, in vLLM's shape; not in streams"
    )
    repeat_penalty: float | None = Field(None, description="llama.cpp's name for repetition_penalty")
    n_predict: int | None = Field(None, description="llama.cpp's name for max_tokens; -1: what fits")
    prediction: Prediction | None = Field(
        None, description="text that much of the answer is expected to repeat; look-ups draft from it"
    )
    return_prediction_tokens: bool | None = Field(
        None,
        description="count drafted tokens in `usage` under OpenAI's names for predicted outputs; they are not billed "
        "there: completion_tokens stays the length of the answers",
    )
    return_token_provenance: bool | None = Field(
        None, description="list every token with its text and where it came from, as `adasd` of each choice"
    )


class ChatBody(GenerationBody):
    """``POST /v1/chat/completions``. Messages are judged by adasd.text.chat."""

    messages: list[dict[str, Any]] = Field(
        description="role and content each; content may be text parts",
        json_schema_extra={"minItems": 1, "items": MESSAGE},
    )
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = Field(
        None, description="unset: auto with tools"
    )
    parallel_tool_calls: bool | None = Field(None, description="false: one call at most")
    chat_template_kwargs: Annotated[dict[str, Any], Field(max_length=64)] | None = Field(
        None, description="switches of the model's own chat template, for example enable_thinking"
    )
    continue_final_message: bool | None = Field(
        None, description="the answer continues the last message, which is the assistant's"
    )
    add_generation_prompt: bool | None = Field(None, description="false only with continue_final_message")
    max_completion_tokens: int | None = Field(None, description="goes before max_tokens")
    logprobs: bool | None = Field(None, description="list every token with its log-probability")
    top_logprobs: int | None = Field(None, description="likeliest tokens beside each; needs logprobs")


class CompletionBody(GenerationBody):
    """``POST /v1/completions``."""

    add_special_tokens: bool | None = Field(
        None, description="false: no special tokens in front of a text prompt"
    )
    echo: bool | None = Field(None, description="show the prompt in front of the answer")
    logprobs: int | None = Field(
        None,
        description="list every token with its log-probability and so many likeliest; with echo the prompt's too",
    )
    prompt: Any = Field(
        description=f"a text, a list of token ids, or a list of up to {MAX_PROMPTS} of either",
        json_schema_extra={
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}},
                {"type": "array", "items": {"type": "integer"}},
                {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
            ]
        },
    )


def with_options(body: type[BodyT], *kinds: type, without: Sequence[str] = ()) -> type[BodyT]:
    """The body with a field for every option of these dataclasses, except those that HTTP represents differently.

    ``without``: further options that this body represents differently.
    """
    derived: dict[str, Any] = {}
    for kind in kinds:
        hints = get_type_hints(kind)
        for one in fields(kind):
            option = options_of(kind).get(one.name)
            if option is not None and option.http is None and one.name not in without:
                derived[one.name] = _field(hints[one.name], option)
    if "speculation" in body.model_fields:
        derived["speculation"] = (SPECULATION | None, None)
    made: type[BodyT] = create_model(body.__name__, __base__=body, __doc__=body.__doc__, **derived)
    return made


def sent_options(body: Body, kind: type) -> dict[str, Any]:
    """The options of a dataclass that the body sets, with the dataclass's types."""
    named = [name for name in options_of(kind) if name in type(body).model_fields]
    sent = {name: getattr(body, name) for name in named if options_of(kind)[name].http is None}
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in sent.items()
        if value is not None
    }


def _field(kind: Any, option: RequestOption) -> Any:
    """A pydantic field whose default is None."""
    python = JSON_TYPES.get(kind, kind)
    return (python | None, Field(None, description=option.sentence, json_schema_extra=_bounds(option)))


JSON_TYPES: dict[Any, Any] = {
    tuple[str, ...]: Annotated[list[str], BeforeValidator(_listed)],
    tuple[int, ...]: list[int],
    tuple[tuple[int, float], ...]: dict[str, float],
}
"""The JSON type of each tuple type; a list of texts may also be sent as a single text."""


def _bounds(option: RequestOption) -> Any:
    """Adds an option's range to its JSON schema."""
    each = {
        "minimum": option.at_least,
        "exclusiveMinimum": option.above,
        "maximum": option.at_most,
        "minLength": option.max_chars and 1,
        "maxLength": option.max_chars,
    }

    def add(schema: dict[str, Any]) -> None:
        sent = schema["anyOf"][0]  # the other member is null
        entry = sent.get("items") or sent.get("additionalProperties") or sent
        entry |= {key: bound for key, bound in each.items() if bound is not None}
        if option.max_items is not None:
            sent["maxItems" if "items" in sent else "maxProperties"] = option.max_items

    return add


SPECULATION = with_options(Speculation, SpeculationOptions)
CHAT_BODY = with_options(ChatBody, SamplingParams, GenerationRequest)
COMPLETION_BODY = with_options(CompletionBody, SamplingParams, GenerationRequest)
