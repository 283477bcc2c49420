"""The door: a body becomes generation requests, or an InvalidRequest that names the field and what to do."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pydantic import ValidationError

from adasd.errors import ContextTooLong, InvalidRequest, UnknownModel
from adasd.messages import GenerationRequest, SamplingParams, SpeculationOptions
from adasd.text.chat import check_text
from services.gateway.backend import Backend, Text
from services.gateway.schema import MAX_PROMPTS, Body, ChatBody, CompletionBody, GenerationBody, Speculation
from services.gateway.unsupported import refuse_unsupported

GREEDY_BELOW = 1e-4
"""Lower temperatures are greedy: dividing logits by them leaves the range of float32."""

BodyT = TypeVar("BodyT", bound=Body)


@dataclass(frozen=True, slots=True)
class Order:
    """A body that passed: one request per prompt, and how the answer is to be delivered."""

    requests: tuple[GenerationRequest, ...]
    model: str
    stream: bool
    final_report: bool  # a stream ends with a chunk of usage, speculation and metrics
    usage_fields: bool  # chunks carry a usage field, null until the last one
    continuous_usage: bool  # chunks carry running usage
    provenance: bool  # choices list their tokens
    ignored: tuple[str, ...]  # names of fields that had no effect


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
    prompt = backend.tokenizer.apply_chat_template(body.messages)
    asked = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    return _order(body, backend, answer_id, (prompt,), asked, "messages", ignored)


def read_completion(body: CompletionBody, backend: Backend, answer_id: str) -> Order:
    """Blocking: tokenises. Raises InvalidRequest, ContextTooLong, UnknownModel."""
    ignored = _refuse(body, backend)
    prompts = read_prompts(body.prompt, backend.tokenizer)
    if body.stream and len(prompts) > 1:
        raise InvalidRequest(
            f"prompt holds {len(prompts)} prompts, a stream can answer one; send them one by one", "prompt"
        )
    return _order(body, backend, answer_id, prompts, body.max_tokens, "prompt", ignored)


def read_prompts(prompt: Any, text: Text) -> tuple[tuple[int, ...], ...]:
    """Token ids of every prompt in one of OpenAI's four shapes."""
    if isinstance(prompt, str) or (isinstance(prompt, list) and prompt and _is_int(prompt[0])):
        return (_read_prompt(prompt, text, "prompt"),)
    if not isinstance(prompt, list) or not prompt:
        raise InvalidRequest("prompt must be a text, a list of token ids, or a list of either", "prompt")
    if len(prompt) > MAX_PROMPTS:
        raise InvalidRequest(f"prompt holds {len(prompt)} prompts; send at most {MAX_PROMPTS}", "prompt")
    return tuple(_read_prompt(one, text, f"prompt.{i}") for i, one in enumerate(prompt))


def sampling_params(body: GenerationBody, max_tokens: int, vocab_size: int) -> SamplingParams:
    """Defaults filled in; raises InvalidRequest where fields contradict one another or the vocabulary."""
    for i, stop in enumerate(body.stop or ()):
        check_text(stop, f"stop.{i}")
    for i, token_id in enumerate(body.stop_token_ids or ()):
        _check_token(token_id, vocab_size, f"stop_token_ids.{i}")
    min_tokens = body.min_tokens or 0
    if min_tokens > max_tokens:
        raise InvalidRequest(
            f"min_tokens is {min_tokens}, but the answer holds at most {max_tokens}; lower min_tokens",
            "min_tokens",
        )
    temperature = 1.0 if body.temperature is None else body.temperature
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=temperature if temperature >= GREEDY_BELOW else 0.0,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=max(body.top_k or 0, 0),
        min_p=body.min_p or 0.0,
        seed=body.seed,
        min_tokens=min_tokens,
        ignore_eos=bool(body.ignore_eos),
        stop=tuple(body.stop or ()),
        stop_token_ids=tuple(body.stop_token_ids or ()),
        logit_bias=_logit_bias(body.logit_bias or {}, vocab_size),
    )


def answer_len(prompt_len: int, asked: int | None, context_len: int, param: str) -> int:
    """Tokens that the answer may have; raises ContextTooLong naming both lengths."""
    if prompt_len + (asked or 1) > context_len:
        too_long = ContextTooLong(prompt_len, asked or 1, context_len)
        too_long.param = param
        raise too_long
    return asked if asked is not None else context_len - prompt_len


def _refuse(body: GenerationBody, backend: Backend) -> tuple[str, ...]:
    if body.model is not None and body.model != backend.model_name:
        raise UnknownModel(body.model, backend.model_name)
    return refuse_unsupported(body)


def _order(
    body: GenerationBody,
    backend: Backend,
    answer_id: str,
    prompts: tuple[tuple[int, ...], ...],
    asked: int | None,
    param: str,
    ignored: tuple[str, ...],
) -> Order:
    speculation = _options(body.speculation)
    backend.effective(speculation)  # refuses what cannot be had here
    requests = []
    for i, prompt in enumerate(prompts):
        max_tokens = answer_len(len(prompt), asked, backend.context_len, param)
        sampling = sampling_params(body, max_tokens, backend.tokenizer.vocab_size)
        requests.append(GenerationRequest(f"{answer_id}-{i}", prompt, sampling, speculation))
    options = body.stream_options
    include_usage = bool(options and options.include_usage)
    return Order(
        requests=tuple(requests),
        model=backend.model_name,
        stream=bool(body.stream),
        final_report=include_usage or body.speculation is not None,
        usage_fields=include_usage,
        continuous_usage=bool(options and options.continuous_usage_stats),
        provenance=bool(body.return_token_provenance),
        ignored=ignored,
    )


def _options(speculation: Speculation | None) -> SpeculationOptions:
    if speculation is None:
        return SpeculationOptions()
    return replace(SpeculationOptions(), **speculation.model_dump())


def _read_prompt(prompt: Any, text: Text, where: str) -> tuple[int, ...]:
    if isinstance(prompt, str):
        ids = text.encode(check_text(prompt, where))
    elif isinstance(prompt, list) and all(_is_int(token_id) for token_id in prompt):
        ids = tuple(prompt)
        for i, token_id in enumerate(ids):
            _check_token(token_id, text.vocab_size, f"{where}.{i}")
    else:
        raise InvalidRequest(f"{where} must be a text or a list of token ids", where)
    if not ids:
        raise InvalidRequest(f"{where} is empty; it must hold at least one token", where)
    return ids


def _logit_bias(bias: dict[str, float], vocab_size: int) -> tuple[tuple[int, float], ...]:
    ids: dict[int, float] = {}
    for key, value in bias.items():
        if not (key.isascii() and key.isdigit() and len(key) < 11):
            raise InvalidRequest(f"logit_bias has the key {key!r:.40}; keys are token ids", "logit_bias")
        _check_token(int(key), vocab_size, f"logit_bias.{key}")
        ids[int(key)] = value
    return tuple(ids.items())


def _check_token(token_id: int, vocab_size: int, where: str) -> None:
    if not 0 <= token_id < vocab_size:
        raise InvalidRequest(
            f"{where} is {token_id}, but token ids here run from 0 to {vocab_size - 1}", where
        )


def _is_int(value: Any) -> bool:
    return type(value) is int


def _first_fault(error: ValidationError) -> InvalidRequest:
    fault = error.errors(include_url=False, include_input=False)[0]
    param = ".".join(str(part) for part in fault["loc"]) or None
    if fault["type"] == "extra_forbidden":
        return _unknown_option(str(fault["loc"][-1]))
    if fault["type"] == "json_invalid":
        return InvalidRequest(
            f"the body is not valid JSON in UTF-8: {fault['msg'].removeprefix('Invalid JSON: ')}"
        )
    if param is None:
        return InvalidRequest("the body must be a JSON object")
    return InvalidRequest(f"{param}: {fault['msg'][0].lower()}{fault['msg'][1:]}", param)


def _unknown_option(name: str) -> InvalidRequest:
    known = list(Speculation.model_fields)
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    hint = f"did you mean {nearest[0]!r}?" if nearest else ""
    return InvalidRequest(
        f"speculation has no option {name[:64]!r}; {hint} known are {', '.join(known)}",
        f"speculation.{name[:64]}",
    )
