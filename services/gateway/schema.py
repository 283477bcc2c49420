"""Bodies of the OpenAI routes as clients may send them: types and ranges, nothing that needs a model.

Strict JSON types (``true`` is no number, ``"1"`` is none either), finite numbers only; ``null`` means unset.
Unknown top-level fields are kept, so that validation can report them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from adasd.requests import Mode
from adasd.text.chat import ROLES

MAX_STOPS = 16
MAX_STOP_CHARS = 256
MAX_STOP_TOKENS = 64
MAX_BIASED_TOKENS = 1024
MAX_PROMPTS = 32
MAX_CHOICES = 128
MAX_GUIDED_CHOICES = 1024
MAX_TOOLS = 128
MAX_TOP_LOGPROBS = 20
INT64 = 2**63
INT31 = 2**31 - 1


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
"""How a message looks that adasd.text.chat takes; for the document, it is not checked here."""


def _listed(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else stop


StopText = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
Stops = Annotated[list[StopText], Field(max_length=MAX_STOPS), BeforeValidator(_listed)]
Choices = Annotated[list[StopText], Field(min_length=1, max_length=MAX_GUIDED_CHOICES)]
TokenId = Annotated[int, Field(ge=0, le=INT31)]
Bias = Annotated[float, Field(ge=-100, le=100)]


class Body(BaseModel):
    """Common rules of all bodies."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, validate_default=False)


class Closed(Body):
    """An object whose unknown fields are refused: they would change the answer."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class Speculation(Closed):
    """The request extension ``speculation``; unset fields take the deployment's defaults."""

    mode: Mode | None = Field(None, description="off, exact (the target's law) or adaptive (may be relaxed)")
    draft: str | None = Field(None, max_length=64, description="name of a draft source")
    drafting: str | None = Field(None, max_length=64, description="name of a drafting policy")
    acceptance: str | None = Field(None, max_length=64, description="name of an acceptance policy")
    max_draft_tokens: int | None = Field(None, ge=1, le=INT31, description="tokens per block at most")
    max_relaxed_fraction: float | None = Field(
        None, ge=0, le=1, description="share of the answer's tokens that may be relaxed"
    )
    max_distortion: float | None = Field(
        None, ge=0, description="total variation that relaxation may cost, summed over the answer"
    )


class StreamOptions(Body):
    """What a stream reports besides text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = Field(None, description="running usage in every chunk")


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


class FunctionTool(Closed):
    """A function that the model may call."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = Field(None, description="JSON Schema of the arguments, an object")
    strict: bool | None = Field(None, description="every call has valid arguments")


class Tool(Closed):
    """OpenAI's tool object; functions are the only kind."""

    type: Literal["function"]
    function: FunctionTool


class FunctionName(Closed):
    """Names one of ``tools``."""

    name: str = Field(max_length=64)


class NamedTool(Closed):
    """``tool_choice``: this function has to be called."""

    type: Literal["function"]
    function: FunctionName


class GenerationBody(Body):
    """What both routes take."""

    model: str | None = Field(None, max_length=512, description="unset: the only model served")
    max_tokens: int | None = Field(None, ge=1, le=INT31, description="unset: what fits into the context")
    temperature: float | None = Field(None, ge=0, le=2, description="0 is greedy; unset: 1")
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=INT31, description="0 and -1 keep all")
    min_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, ge=-INT64, le=INT64 - 1)
    min_tokens: int | None = Field(None, ge=0, le=INT31)
    ignore_eos: bool | None = None
    stop: Stops | None = Field(None, description="a text or a list of texts before which the answer ends")
    stop_token_ids: Annotated[list[TokenId], Field(max_length=MAX_STOP_TOKENS)] | None = None
    logit_bias: Annotated[dict[str, Bias], Field(max_length=MAX_BIASED_TOKENS)] | None = None
    presence_penalty: float | None = Field(
        None, ge=-2, le=2, description="taken once from the logit of every token that the answer holds"
    )
    frequency_penalty: float | None = Field(None, ge=-2, le=2, description="taken from it for every time")
    repetition_penalty: float | None = Field(
        None, gt=0, le=2, description="divides positive and multiplies negative logits of tokens seen"
    )
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
    max_completion_tokens: int | None = Field(None, ge=1, le=INT31, description="goes before max_tokens")
    logprobs: bool | None = Field(None, description="list every token with its log-probability")
    top_logprobs: int | None = Field(
        None, ge=0, le=MAX_TOP_LOGPROBS, description="likeliest tokens beside each; needs logprobs"
    )


class CompletionBody(GenerationBody):
    """``POST /v1/completions``."""

    max_tokens: int | None = Field(
        None, ge=0, le=INT31, description="unset: what fits into the context; 0 shows nothing but the prompt"
    )
    echo: bool | None = Field(None, description="show the prompt in front of the answer")
    logprobs: int | None = Field(
        None,
        ge=0,
        le=MAX_TOP_LOGPROBS,
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
