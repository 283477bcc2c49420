"""Converts an HTTP body to generation requests, and to the options for delivering their answers."""

from __future__ import annotations

import difflib
import hashlib
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from pydantic import ValidationError

from adasd.errors import InvalidRequest
from adasd.requests import SET_BY_MODELS, GenerationRequest, SamplingParams, SpeculationOptions
from adasd.text.chat import plain_content
from services.gateway.backend import Backend
from services.gateway.http.answer_format import grammar_of
from services.gateway.http.schema import (
    MAX_CHOICES,
    MAX_PROMPTS,
    SPECULATION,
    Body,
    ChatBody,
    CompletionBody,
    GenerationBody,
    sent_options,
)
from services.gateway.http.tool_use import ToolUse, tool_use
from services.gateway.http.unsupported import TEMPLATE_SWITCHES, refuse_unsupported
from services.gateway.predicted import with_prediction
from services.gateway.prompts import Prompt, chat_prompt, ids_prompt, text_prompt
from services.gateway.validation import check_model, checked, fitted

BodyT = TypeVar("BodyT", bound=Body)


SYNONYMS = {"max_tokens": "n_predict", "repetition_penalty": "repeat_penalty"}
"""Options with another name in llama.cpp."""


class Continuable(Protocol):
    """A body with a conversation."""

    continue_final_message: bool | None
    add_generation_prompt: bool | None


@dataclass(frozen=True, slots=True)
class Order:
    """A valid body: one request per choice, and how the answers are delivered."""

    requests: tuple[GenerationRequest, ...]  # by choice index: ``n`` of the first prompt, ...
    n: int  # answers per prompt
    model: str
    stream: bool
    final_report: bool  # a stream ends with a chunk of usage, speculation and metrics
    usage_fields: bool  # chunks carry a usage field, null until the last one
    continuous_usage: bool  # chunks carry running usage
    prediction_tokens: bool  # usage counts drafted tokens
    provenance: bool  # choices list where their tokens came from
    logprobs: bool  # choices list the log-probabilities of their tokens
    echo: tuple[str, ...]  # text of each request's prompt, shown before its answer; empty: not shown
    only_prompt: bool  # no token of the answer is shown; it was generated for the prompt's log-probabilities
    ignored: tuple[str, ...]  # names of fields that had no effect
    tools: ToolUse | None = None  # the functions that the answer may call
    prompt_logprobs: bool = False  # choices list the log-probabilities of their prompt's tokens, as vLLM does
    repeated: Mapping[str, Any] = field(
        default_factory=dict
    )  # fields of the body that a Responses object repeats

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens of all prompts, each prompt counted once."""
        return sum(len(request.prompt) for request in self.requests[:: self.n])


def parse(raw: bytes, kind: type[BodyT]) -> BodyT:
    """Parse a body. Refuses invalid JSON or UTF-8, too deep nesting, and wrong types."""
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        raise first_fault(error) from None


def read_chat(body: ChatBody, backend: Backend, answer_id: str) -> Order:
    """Blocking: tokenises. Raises InvalidRequest, ContextTooLong, UnknownModel."""
    check_model(body.model, backend)
    switches = [name for name in TEMPLATE_SWITCHES if name in backend.tokenizer.template_options]
    ignored = refuse_unsupported(body, tuple(switches))
    format_, tools = grammar_of(body), tool_use(body, backend.tokenizer)
    names = {"logprobs": "top_logprobs"}
    sent: dict[str, Any] = {"logprobs": _chat_logprobs(body), "prompt_logprobs": _prompt_logprobs(body)}
    if body.max_completion_tokens is not None:
        sent["max_tokens"], names["max_tokens"] = body.max_completion_tokens, "max_completion_tokens"
    if format_ is not None:
        where, answer = format_
        names["grammar"], sent["grammar"] = where, tools.or_format(answer, where) if tools else answer
    elif tools is not None and tools.grammar is not None:
        names["grammar"], sent["grammar"] = "tools", tools.grammar
    request = checked(_request(body, backend, answer_id, sent, names), backend, names)
    request = _predicted(request, body, backend)
    extra = body.model_extra or {}
    options = {name: extra[name] for name in switches if extra.get(name) is not None}
    options |= body.chat_template_kwargs or {}
    shown = tools.tools if tools else ()
    prompt = chat_prompt(body.messages, backend, shown, options, continues(body))
    order = _order(body, backend, _choices(body, backend, request, (prompt,), names), ignored)
    return replace(order, tools=tools)


def read_completion(body: CompletionBody, backend: Backend, answer_id: str) -> Order:
    """Blocking: tokenises. Raises InvalidRequest, ContextTooLong, UnknownModel."""
    check_model(body.model, backend)
    ignored = refuse_unsupported(body)
    names: dict[str, str] = {}
    sent: dict[str, Any] = {"logprobs": body.logprobs, "prompt_logprobs": _prompt_logprobs(body)}
    if body.echo and body.logprobs is not None:
        if body.prompt_logprobs not in (None, body.logprobs):
            raise InvalidRequest(
                f"prompt_logprobs is {body.prompt_logprobs}, but echo asks for {body.logprobs} beside the prompt's "
                "tokens too; send the same number, or one of them",
                "prompt_logprobs",
            )
        sent["prompt_logprobs"] = body.logprobs
    if (format_ := grammar_of(body)) is not None:
        names["grammar"], sent["grammar"] = format_
    request = _request(body, backend, answer_id, sent, names)
    only_prompt = request.sampling.max_tokens == 0 and request.sampling.prompt_logprobs is not None
    if only_prompt:  # the prompt's log-probabilities come with the first token of an answer
        request = replace(request, sampling=replace(request.sampling, max_tokens=1))
    request = _predicted(checked(request, backend, names), body, backend)
    prompts = read_prompts(body.prompt, backend, body.add_special_tokens is not False)
    order = _order(body, backend, _choices(body, backend, request, prompts, names), ignored)
    order = replace(order, only_prompt=only_prompt)
    if not body.echo:
        return order
    texts = [
        prompt.text if prompt.text is not None else backend.tokenizer.decode(prompt.ids) for prompt in prompts
    ]
    echo = tuple(text for text in texts for _ in range(order.n))
    return replace(order, echo=echo)


def read_prompts(prompt: Any, backend: Backend, special: bool = True) -> tuple[Prompt, ...]:
    """Tokenise every prompt in any of OpenAI's four shapes; raises InvalidRequest naming the part that is wrong."""
    if isinstance(prompt, str) or (isinstance(prompt, list) and prompt and _is_int(prompt[0])):
        return (_read_prompt(prompt, backend, "prompt", special),)
    if not isinstance(prompt, list) or not prompt:
        raise InvalidRequest("prompt must be a text, a list of token ids, or a list of either", "prompt")
    if len(prompt) > MAX_PROMPTS:
        raise InvalidRequest(f"prompt holds {len(prompt)} prompts; send at most {MAX_PROMPTS}", "prompt")
    return tuple(_read_prompt(one, backend, f"prompt.{i}", special) for i, one in enumerate(prompt))


def seed_of_choice(seed: int | None, number: int) -> int | None:
    """The seed of a prompt's answer ``number``. Answer 0 has the request's own, so n = 1 and n = 4 agree on it."""
    if seed is None or number == 0:
        return seed
    digest = hashlib.blake2b(struct.pack("<qq", seed, number), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _request(
    body: GenerationBody, backend: Backend, answer_id: str, sent: dict[str, Any], names: dict[str, str]
) -> GenerationRequest:
    """The request without its prompt; ``sent`` overrides the body's option of the same name.

    Options that are not set have the model's defaults.

    Adds to ``names`` the body's names for options.
    """
    sampling = sent_options(body, SamplingParams)
    for name, value in (("max_tokens", body.n_predict), ("repetition_penalty", body.repeat_penalty)):
        if value is None or (name == "max_tokens" and value == -1):
            continue
        synonym = SYNONYMS[name]
        if name in sampling and sampling[name] != value:
            raise InvalidRequest(f"{name} and {synonym} say the same, but differ; send one", synonym)
        sampling[name], names[name] = value, synonym
    of_model = {name: value for name, value in backend.sampling_defaults.items() if name in SET_BY_MODELS}
    sampling = {**of_model, **sampling, **sent}
    if "logit_bias" in sampling:
        sampling["logit_bias"] = tuple((_token_id(key), bias) for key, bias in sampling["logit_bias"].items())
    speculation = sent_options(body.speculation, SpeculationOptions) if body.speculation else {}
    own = sent_options(body, GenerationRequest)
    return GenerationRequest(
        answer_id, (), SamplingParams(**sampling), SpeculationOptions(**speculation), **own
    )


def _predicted(request: GenerationRequest, body: GenerationBody, backend: Backend) -> GenerationRequest:
    """The request with OpenAI's predicted output, if the body has one."""
    if body.prediction is None:
        return request
    where = "prediction.content"
    return with_prediction(request, plain_content(body.prediction.content, where, joint=""), backend, where)


def _choices(
    body: GenerationBody,
    backend: Backend,
    request: GenerationRequest,
    prompts: tuple[Prompt, ...],
    names: dict[str, str],
) -> tuple[GenerationRequest, ...]:
    """``n`` requests per prompt, those of the first prompt first."""
    n = _num_choices(body)
    if n * len(prompts) > MAX_CHOICES:
        raise InvalidRequest(
            f"n is {n} for each of {len(prompts)} prompts, {n * len(prompts)} answers in all; at most "
            f"{MAX_CHOICES} fit into one request",
            "n",
        )
    requests: list[GenerationRequest] = []
    for prompt in prompts:
        one = fitted(request, prompt, backend, names)
        for number in range(n):
            sampling = replace(one.sampling, seed=seed_of_choice(one.sampling.seed, number))
            name = f"{request.request_id}-{len(requests)}"
            requests.append(replace(one, request_id=name, sampling=sampling))
    return tuple(requests)


def _num_choices(body: GenerationBody) -> int:
    """Answers per prompt; raises InvalidRequest for a best_of that would discard answers."""
    wanted = body.n or 1
    if body.best_of is not None and body.best_of != wanted:
        raise InvalidRequest(
            f"best_of is {body.best_of} and n is {wanted}: this server shows every answer that it makes; "
            "leave best_of out",
            "best_of",
        )
    return wanted


def continues(body: Continuable) -> bool:
    """Whether the answer continues the last message. Raises InvalidRequest for fields that contradict each other."""
    if body.continue_final_message and body.add_generation_prompt:
        raise InvalidRequest(
            "add_generation_prompt begins a message where continue_final_message continues the last one; send one",
            "add_generation_prompt",
        )
    if body.add_generation_prompt is False and not body.continue_final_message:
        raise InvalidRequest(
            "add_generation_prompt may only be false with continue_final_message; leave it out",
            "add_generation_prompt",
        )
    return bool(body.continue_final_message)


def _prompt_logprobs(body: GenerationBody) -> int | None:
    if body.prompt_logprobs is not None and body.stream:
        raise InvalidRequest("prompt_logprobs cannot be streamed; leave stream out", "prompt_logprobs")
    return body.prompt_logprobs


def _chat_logprobs(body: ChatBody) -> int | None:
    """Number of likeliest tokens to report with each token; None if log-probabilities were not requested."""
    if body.logprobs:
        return body.top_logprobs or 0
    if body.top_logprobs:
        raise InvalidRequest(
            f"top_logprobs is {body.top_logprobs}, but logprobs is not true; set it or leave both out",
            "top_logprobs",
        )
    return None


def _order(
    body: GenerationBody, backend: Backend, requests: tuple[GenerationRequest, ...], ignored: tuple[str, ...]
) -> Order:
    predicted = bool(requests[0].prediction)
    if body.prediction is not None and not predicted:
        ignored = (*ignored, "prediction")
    options = body.stream_options
    include_usage = bool(options and options.include_usage)
    return Order(
        requests=requests,
        n=_num_choices(body),
        model=backend.model_name,
        stream=bool(body.stream),
        final_report=include_usage or body.speculation is not None,
        usage_fields=include_usage,
        continuous_usage=bool(options and options.continuous_usage_stats),
        prediction_tokens=predicted or bool(body.return_prediction_tokens),
        provenance=bool(body.return_token_provenance),
        logprobs=requests[0].sampling.logprobs is not None,
        echo=(),
        only_prompt=False,
        ignored=ignored,
        prompt_logprobs=body.prompt_logprobs is not None,
    )


def _read_prompt(prompt: Any, backend: Backend, where: str, special: bool) -> Prompt:
    if isinstance(prompt, str):
        return text_prompt(prompt, backend, where, special)
    if isinstance(prompt, list) and all(_is_int(token_id) for token_id in prompt):
        return ids_prompt(prompt, backend.tokenizer, where)
    raise InvalidRequest(f"{where} must be a text or a list of token ids", where)


def _is_int(value: Any) -> bool:
    return type(value) is int


def _token_id(key: str) -> int:
    if not (key.isascii() and key.isdigit() and len(key) < 11):
        raise InvalidRequest(f"logit_bias has the key {key!r:.40}; keys are token ids", "logit_bias")
    return int(key)


def first_fault(error: ValidationError) -> InvalidRequest:
    """The first thing that is wrong with a body."""
    fault = error.errors(include_url=False)[0]
    path = [str(part) for part in fault["loc"] if not _is_branch(str(part))]
    param = ".".join(path) or None
    if fault["type"] == "extra_forbidden":
        return _unknown_option(path)
    if fault["type"] == "json_invalid":
        return InvalidRequest(
            f"the body is not valid JSON in UTF-8: {fault['msg'].removeprefix('Invalid JSON: ')}"
        )
    if param is None:
        return InvalidRequest("the body must be a JSON object")
    if fault["type"] == "enum":  # the same wording as services.transport over gRPC
        possible = ", ".join(re.findall(r"'(\w+)'", fault["ctx"]["expected"]))
        return InvalidRequest(f"{param} is {str(fault['input'])[:64]!r}; possible: {possible}", param)
    return InvalidRequest(f"{param}: {fault['msg'][0].lower()}{fault['msg'][1:]}", param)


def _is_branch(part: str) -> bool:
    """Whether pydantic names one member of a union here, not a field."""
    return "[" in part or part in ("str", "bool", "NamedTool")


def _unknown_option(path: list[str]) -> InvalidRequest:
    *where, name = path
    owner, param = ".".join(where), ".".join([*where, name[:64]])
    if owner != "speculation":
        return InvalidRequest(f"{owner} has no field {name[:64]!r} here; leave it out", param)
    known = list(SPECULATION.model_fields)
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    hint = f"did you mean {nearest[0]!r}?" if nearest else ""
    return InvalidRequest(
        f"speculation has no option {name[:64]!r}; {hint} known are {', '.join(known)}", param
    )
