"""What a request asks for: frozen dataclasses, no behaviour."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Mode(StrEnum):
    """What speculation may do to a request's output."""

    OFF = "off"  # plain decoding
    EXACT = "exact"  # speculation, output law of the target alone
    ADAPTIVE = "adaptive"  # speculation, drafted tokens may also be accepted by relaxation


class GrammarKind(StrEnum):
    """Language in which a grammar is written."""

    JSON_SCHEMA = "json_schema"  # a JSON Schema as JSON text; "{}" is any JSON value
    REGEX = "regex"  # a regular expression that the whole answer matches
    LARK = "lark"  # a context-free grammar in Lark's notation


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an answer has to look like: at every position only tokens that keep it completable are allowed."""

    kind: GrammarKind
    text: str


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the answer is sampled and when it ends. Validated at the door (services.gateway.validation)."""

    max_tokens: int  # tokens, >= 0
    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0  # (0, 1]
    top_k: int = 0  # 0 keeps all
    min_p: float = 0.0  # [0, 1]
    seed: int | None = None  # 64 bit; with a seed the output is a pure function of the request
    min_tokens: int = 0  # the end-of-sequence token is forbidden before
    ignore_eos: bool = False  # the end-of-sequence token does not end the answer
    stop: tuple[str, ...] = ()  # the answer ends before any of these texts
    stop_token_ids: tuple[int, ...] = ()  # the answer ends with any of these tokens (not shown)
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token id, added to its logit)
    presence_penalty: float = 0.0  # [-2, 2], taken once from the logit of every token that the answer holds
    frequency_penalty: float = 0.0  # [-2, 2], taken from it for every time
    repetition_penalty: float = 1.0  # (0, 2], divides positive and multiplies negative logits of tokens seen
    grammar: Grammar | None = None  # what the answer has to look like
    logprobs: int | None = None  # report so many likeliest tokens beside each token; None reports nothing
    prompt_logprobs: int | None = None  # the same for the tokens of the prompt


@dataclass(frozen=True, slots=True)
class SpeculationOptions:
    """Per-request speculation; ``None`` means the deployment's default. Echoed back with effective values."""

    mode: Mode | None = None
    drafting: str | None = None  # name of a drafting policy (adasd.methods.registry)
    acceptance: str | None = None  # name of an acceptance policy, in mode adaptive
    max_draft_tokens: int | None = None  # tokens per block, >= 1
    max_relaxed_fraction: float | None = None  # share of the answer's tokens that may be relaxed, [0, 1]
    draft: str | None = None  # name of a draft source of the deployment
    max_distortion: float | None = None  # total variation that relaxation may cost in the answer, >= 0


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One answer to be generated from token ids."""

    request_id: str
    prompt: tuple[int, ...]  # token ids, at least one
    sampling: SamplingParams
    speculation: SpeculationOptions = field(default_factory=SpeculationOptions)
    timeout_s: float | None = None  # seconds from arrival; None is the deployment's limit
