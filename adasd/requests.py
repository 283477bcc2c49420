"""The content of a request: frozen dataclasses, no behaviour.

A field made by ``option`` fully defines an option: HTTP and gRPC take it under its name, check its range with the same
message, send it over the wire, and list it in schemas and documentation.
"""

# ruff: noqa: RUF009 (option is dataclasses.field)
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

WHAT_FITS = 2**31 - 1
"""``max_tokens`` of a request that does not limit its answer."""
MAX_TOKEN_ID = 2**31 - 1


@dataclass(frozen=True, slots=True)
class RequestOption:
    """Description and bounds of one option of a request. Bounds apply to a number, or to each one of several."""

    sentence: str
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    max_items: int | None = None
    max_chars: int | None = None  # of a text, or of each one of several, which then must not be empty
    http: str | None = None  # the field of HTTP bodies, if it is not the option's name


def option(default: Any, sentence: str, **bounds: Any) -> Any:
    """A field with its ``RequestOption``."""
    return field(default=default, metadata={"option": RequestOption(sentence, **bounds)})


def options_of(kind: type) -> Mapping[str, RequestOption]:
    """The options among a dataclass's fields."""
    return {one.name: one.metadata["option"] for one in fields(kind) if "option" in one.metadata}


class Mode(StrEnum):
    """What speculation may do to a request's output."""

    OFF = "off"  # plain decoding
    EXACT = "exact"  # speculation that keeps the target's distribution
    ADAPTIVE = "adaptive"  # speculation in which drafted tokens may also be accepted by relaxation


class GrammarKind(StrEnum):
    """Language in which a grammar is written."""

    JSON_SCHEMA = "json_schema"  # a JSON Schema as JSON text; "{}" is any JSON value
    REGEX = "regex"  # a regular expression that the whole answer matches
    LARK = "lark"  # a context-free grammar in Lark's notation


@dataclass(frozen=True, slots=True)
class Grammar:
    """The required form of an answer: at every position, only tokens are allowed after which it can be completed."""

    kind: GrammarKind
    text: str


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the answer is sampled and when it ends. Checked by the gateway (services.gateway.http.order)."""

    max_tokens: int = option(
        WHAT_FITS,
        "tokens of the answer at most; unset: what fits into the context",
        at_least=0,
        at_most=WHAT_FITS,
    )
    temperature: float = option(1.0, "divides the logits; 0 is greedy", at_least=0, at_most=2)
    top_p: float = option(1.0, "probability mass that is kept", above=0, at_most=1)
    top_k: int = option(
        0, "likeliest tokens that are kept; 0 and -1 keep all", at_least=-1, at_most=WHAT_FITS
    )
    min_p: float = option(
        0.0, "tokens below this share of the largest probability are left out", at_least=0, at_most=1
    )
    seed: int | None = option(
        None,
        "with it the answer is a pure function of prompt, parameters and target, whatever is drafted",
        at_least=-(2**63),
        at_most=2**63 - 1,
    )
    min_tokens: int = option(
        0, "tokens before which the answer cannot end by itself", at_least=0, at_most=WHAT_FITS
    )
    ignore_eos: bool = option(False, "the end-of-sequence token does not end the answer")
    stop: tuple[str, ...] = option(
        (),
        "texts before which the answer ends; `stop_reason` says which one it was",
        max_items=16,
        max_chars=256,
    )
    include_stop_str_in_output: bool = option(
        False, "the stop text, or the text of the stop token, that ended the answer is shown"
    )
    stop_token_ids: tuple[int, ...] = option(
        (),
        "token ids that end the answer; they are not shown",
        at_least=0,
        at_most=MAX_TOKEN_ID,
        max_items=64,
    )
    logit_bias: tuple[tuple[int, float], ...] = option(
        (), "token ids, each with what is added to its logit", at_least=-100, at_most=100, max_items=1024
    )
    presence_penalty: float = option(
        0.0, "taken once from the logit of every token that the answer holds", at_least=-2, at_most=2
    )
    frequency_penalty: float = option(
        0.0, "taken from the logit of a token for every time that the answer holds it", at_least=-2, at_most=2
    )
    repetition_penalty: float = option(
        1.0,
        "divides positive and multiplies negative logits of tokens in prompt and answer",
        above=0,
        at_most=2,
    )
    grammar: Grammar | None = option(
        None, "what the answer has to look like", http="`response_format`, `structured_outputs`"
    )
    logprobs: int | None = option(
        None,
        "likeliest tokens reported beside each token, with their log-probabilities; unset: none",
        at_least=0,
        at_most=20,
        http="`logprobs`, in chat `logprobs: true` and `top_logprobs`",
    )
    prompt_logprobs: int | None = option(
        None,
        "the same for the tokens of the prompt",
        at_least=0,
        at_most=20,
        http="`prompt_logprobs`, and `echo` with `logprobs`",
    )


SET_BY_MODELS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""Options whose defaults a model's generation_config.json may set."""


@dataclass(frozen=True, slots=True)
class TextOptions:
    """Options that are about texts. The gateway turns them into tokens and a grammar."""

    bad_words: tuple[str, ...] = option(
        (),
        "texts that the answer never contains, however they are split into tokens; not together with a required "
        "format or calls that must be valid",
        max_items=128,
        max_chars=256,
    )
    prediction: str | None = option(
        None,
        "a text that much of the answer is expected to repeat; look-ups draft from it",
        http="`prediction: {type, content}`",
    )
    continue_final_message: bool = option(
        False, "the answer continues the last message of a conversation, which is the assistant's"
    )


@dataclass(frozen=True, slots=True)
class SpeculationOptions:
    """Options of speculation; ``None`` means the deployment's default. Reports echo them with the values in effect."""

    mode: Mode | None = option(
        None,
        "`off`, `exact` (the target's distribution) or `adaptive` (tokens may be accepted by relaxation)",
    )
    drafting: str | None = option(None, "name of a drafting method", max_chars=256)
    acceptance: str | None = option(
        None, "name of an acceptance method; in mode `exact` it is `token` or `block`", max_chars=256
    )
    max_draft_tokens: int | None = option(
        None, "tokens per block at most, up to the deployment's own limit", at_least=1, at_most=WHAT_FITS
    )
    max_relaxed_fraction: float | None = option(
        None, "share of the answer's tokens that may be relaxed", at_least=0, at_most=1
    )
    draft: str | None = option(None, "name of a draft source of the deployment", max_chars=64)
    max_distortion: float | None = option(
        None, "total variation that relaxation may cost, summed over the answer's positions", at_least=0
    )


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One answer to generate from token ids; HTTP and gRPC requests are both converted to this."""

    request_id: str
    prompt: tuple[int, ...]  # token ids, at least one
    sampling: SamplingParams
    speculation: SpeculationOptions = field(default_factory=SpeculationOptions)
    timeout_s: float | None = option(
        None, "seconds from arrival until the answer is cut; unset: the deployment's limit", above=0
    )
    prediction: tuple[int, ...] = ()  # token ids expected as the answer; look-ups draft from them
