"""The door: a body becomes generation requests, or an InvalidRequest that names the field and what to do."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pydantic import ValidationError

from adasd.errors import InvalidRequest, UnknownModel
from adasd.requests import GenerationRequest, Grammar, SpeculationOptions
from services.gateway.backend import Backend
from services.gateway.formats import grammar_of
from services.gateway.prompts import Prompt, read_prompts
from services.gateway.sampling import (
    answer_len,
    num_choices,
    num_logprobs,
    sampling_params,
    seed_of_choice,
)
from services.gateway.schema import MAX_CHOICES, Body, ChatBody, CompletionBody, GenerationBody, Speculation
from services.gateway.tool_use import ToolUse, tool_use
from services.gateway.unsupported import refuse_unsupported

BodyT = TypeVar("BodyT", bound=Body)


@dataclass(frozen=True, slots=True)
class Order:
    """A body that passed: one request per choice, and how the answers are to be delivered."""

    requests: tuple[GenerationRequest, ...]  # by the index of their choices: ``n`` of the first prompt, ...
    n: int  # answers per prompt
    model: str
    stream: bool
    final_report: bool  # a stream ends with a chunk of usage, speculation and metrics
    usage_fields: bool  # chunks carry a usage field, null until the last one
    continuous_usage: bool  # chunks carry running usage
    prediction_tokens: bool  # usage counts drafted tokens
    provenance: bool  # choices list where their tokens came from
    logprobs: bool  # choices list the log-probabilities of their tokens
    echo: tuple[str, ...]  # per request the prompt's text, shown in front of the answer; empty: not shown
    only_prompt: bool  # nothing of the answer is shown, it was made for the prompt's log-probabilities
    ignored: tuple[str, ...]  # names of fields that had no effect
    tools: ToolUse | None = None  # what the answer may call

    @property
    def num_prompt_tokens(self) -> int:
        """Of all prompts, each counted once."""
        return sum(len(request.prompt) for request in self.requests[:: self.n])


def parse(raw: bytes, kind: type[BodyT]) -> BodyT:
    """Bytes to body. Refuses what is no JSON or not UTF-8, nests too deep, or has wrong types."""
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        raise _first_fault(error) from None


def check_body(fields: dict[str, Any], kind: type[BodyT]) -> BodyT:
    """The same for fields that did not come as JSON."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise _first_fault(error) from None


def read_chat(body: ChatBody, backend: Backend, answer_id: str) -> Order:
    """Blocking: tokenises. Raises InvalidRequest, ContextTooLong, UnknownModel."""
    ignored = _refuse(body, backend)
    grammar, tools = grammar_of(body), tool_use(body, backend.tokenizer)
    if grammar is not None and tools is not None:
        raise InvalidRequest(
            "an answer cannot both follow a format and call tools; leave one out, or say tool_choice 'none'",
            "response_format",
        )
    if tools is not None:
        grammar = tools.grammar
    shown, options = tools.tools if tools else (), body.chat_template_kwargs or {}
    prompt = Prompt(backend.tokenizer.apply_chat_template(body.messages, shown, options))
    asked = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    requests = _requests(body, backend, answer_id, (prompt,), asked, "messages", grammar)
    return replace(_order(body, backend, requests, ignored), tools=tools)


def read_completion(body: CompletionBody, backend: Backend, answer_id: str) -> Order:
    """Blocking: tokenises. Raises InvalidRequest, ContextTooLong, UnknownModel."""
    ignored = _refuse(body, backend)
    prompts = read_prompts(body.prompt, backend.tokenizer)
    only_prompt = body.max_tokens == 0 and bool(body.echo) and body.logprobs is not None
    asked = 1 if only_prompt else body.max_tokens  # the prompt's log-probabilities come with a first token
    requests = _requests(body, backend, answer_id, prompts, asked, "prompt", grammar_of(body))
    order = _order(body, backend, requests, ignored)
    if not body.echo:
        return order
    texts = [
        prompt.text if prompt.text is not None else backend.tokenizer.decode(prompt.ids) for prompt in prompts
    ]
    echo = tuple(text for text in texts for _ in range(order.n))
    return replace(order, echo=echo, only_prompt=only_prompt)


def _refuse(body: GenerationBody, backend: Backend) -> tuple[str, ...]:
    if body.model is not None and body.model != backend.model_name:
        raise UnknownModel(body.model, backend.model_name)
    return refuse_unsupported(body)


def _requests(
    body: GenerationBody,
    backend: Backend,
    answer_id: str,
    prompts: tuple[Prompt, ...],
    asked: int | None,
    param: str,
    grammar: Grammar | None,
) -> tuple[GenerationRequest, ...]:
    """``n`` per prompt, those of the first prompt first."""
    n = num_choices(body)
    if n * len(prompts) > MAX_CHOICES:
        raise InvalidRequest(
            f"n is {n} for each of {len(prompts)} prompts, {n * len(prompts)} answers in all; at most "
            f"{MAX_CHOICES} fit into one request",
            "n",
        )
    speculation = _options(body.speculation)
    backend.effective(speculation)  # refuses what cannot be had here
    requests: list[GenerationRequest] = []
    for prompt in prompts:
        max_tokens = answer_len(len(prompt.ids), asked, backend.context_len, param)
        sampling = sampling_params(body, max_tokens, backend.tokenizer.vocab_size, grammar)
        for number in range(n):
            own = replace(sampling, seed=seed_of_choice(sampling.seed, number))
            requests.append(GenerationRequest(f"{answer_id}-{len(requests)}", prompt.ids, own, speculation))
    return tuple(requests)


def _order(
    body: GenerationBody, backend: Backend, requests: tuple[GenerationRequest, ...], ignored: tuple[str, ...]
) -> Order:
    options = body.stream_options
    include_usage = bool(options and options.include_usage)
    return Order(
        requests=requests,
        n=num_choices(body),
        model=backend.model_name,
        stream=bool(body.stream),
        final_report=include_usage or body.speculation is not None,
        usage_fields=include_usage,
        continuous_usage=bool(options and options.continuous_usage_stats),
        prediction_tokens=bool(body.return_prediction_tokens),
        provenance=bool(body.return_token_provenance),
        logprobs=num_logprobs(body) is not None,
        echo=(),
        only_prompt=False,
        ignored=ignored,
    )


def _options(speculation: Speculation | None) -> SpeculationOptions:
    if speculation is None:
        return SpeculationOptions()
    return replace(SpeculationOptions(), **speculation.model_dump())


def _first_fault(error: ValidationError) -> InvalidRequest:
    fault = error.errors(include_url=False, include_input=False)[0]
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
    return InvalidRequest(f"{param}: {fault['msg'][0].lower()}{fault['msg'][1:]}", param)


def _is_branch(part: str) -> bool:
    """Whether pydantic names one possible type of a field here, not a field."""
    return "[" in part or part in ("str", "bool", "NamedTool")


def _unknown_option(path: list[str]) -> InvalidRequest:
    *where, name = path
    owner, param = ".".join(where), ".".join([*where, name[:64]])
    if owner != "speculation":
        return InvalidRequest(f"{owner} has no field {name[:64]!r} here; leave it out", param)
    known = list(Speculation.model_fields)
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    hint = f"did you mean {nearest[0]!r}?" if nearest else ""
    return InvalidRequest(
        f"speculation has no option {name[:64]!r}; {hint} known are {', '.join(known)}", param
    )
