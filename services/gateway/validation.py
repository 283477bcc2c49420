"""Checks a request, for HTTP and gRPC alike: one generation request, or an InvalidRequest that names the field.

Ranges come from the fields of adasd.requests. Conflicts with another field, the vocabulary or the deployment are
found here too, so HTTP and gRPC refuse with the same messages.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from adasd.errors import InvalidRequest, UnknownModel
from adasd.requests import WHAT_FITS, GenerationRequest, Grammar, RequestOption, SamplingParams, options_of
from adasd.text.chat import check_text
from adasd.text.grammar import check_grammar
from services.gateway.backend import Backend
from services.gateway.prompts import Prompt, check_token, too_long

GREEDY_BELOW = 1e-4
"""Lower temperatures are treated as greedy: logits divided by them would overflow float32."""
OWN_NAMES: Mapping[str, str] = {}


def checked(
    request: GenerationRequest, backend: Backend, names: Mapping[str, str] = OWN_NAMES
) -> GenerationRequest:
    """Check everything that does not depend on the prompt, which may still be empty; return the checked request.

    ``names`` maps a field to the caller's name for it, where the two differ.
    """
    check_options(request, names)
    check_options(request.speculation, prefix="speculation.")
    check_options(request.sampling, names)
    backend.effective(request.speculation)  # refuses options not available here
    sampling = request.sampling
    for i, stop in enumerate(sampling.stop):
        check_text(stop, f"stop.{i}")
    for name in ("stop_token_ids", "logit_bias"):
        for i, entry in enumerate(getattr(sampling, name)):
            token_id, place = (entry[0], entry[0]) if isinstance(entry, tuple) else (entry, i)
            check_token(token_id, backend.tokenizer.vocab_size, f"{name}.{place}")
    if sampling.grammar is not None:
        _check_grammar(sampling.grammar, sampling, names.get("grammar", "grammar"))
    greedy = sampling.temperature < GREEDY_BELOW
    return replace(
        request,
        sampling=replace(
            sampling, temperature=0.0 if greedy else sampling.temperature, top_k=max(sampling.top_k, 0)
        ),
    )


def fitted(
    request: GenerationRequest, prompt: Prompt, backend: Backend, names: Mapping[str, str] = OWN_NAMES
) -> GenerationRequest:
    """A checked request with its prompt and the final max_tokens. Raises ContextTooLong."""
    sampling, num_prompt, context_len = request.sampling, len(prompt.ids), backend.context_len
    asked = sampling.max_tokens
    if asked < prompt.least_tokens:
        name = names.get("max_tokens", "max_tokens")
        raise InvalidRequest(
            f"{name} is {asked}; the answer to a conversation has at least {prompt.least_tokens} token", name
        )
    at_least = 1 if asked == WHAT_FITS else asked
    if num_prompt + at_least > context_len:
        raise too_long(num_prompt, at_least, context_len, prompt.where)
    of_model = backend.sampling_defaults.get("max_tokens", WHAT_FITS)  # its generation_config.json
    max_tokens = min(int(of_model) if asked == WHAT_FITS else asked, context_len - num_prompt)
    if sampling.min_tokens > max_tokens:
        raise InvalidRequest(
            f"min_tokens is {sampling.min_tokens}, but the answer holds at most {max_tokens}; lower min_tokens",
            "min_tokens",
        )
    return replace(request, prompt=prompt.ids, sampling=replace(sampling, max_tokens=max_tokens))


def check_model(name: str | None, backend: Backend) -> None:
    """Raises UnknownModel; an empty name means the served model."""
    if name and name != backend.model_name:
        raise UnknownModel(name, backend.model_name)


def check_options(value: Any, names: Mapping[str, str] = OWN_NAMES, prefix: str = "") -> None:
    """Raises InvalidRequest for the first option of a dataclass that is out of its range."""
    options = options_of(type(value))
    for one in fields(value):
        content = getattr(value, one.name)
        if one.name in options and content is not None and content != one.default:
            _check(content, options[one.name], prefix + names.get(one.name, one.name))


def range_of(option: RequestOption) -> str:
    """The range of one value in words; empty without bounds."""
    low, high = option.at_least, option.at_most
    if high == WHAT_FITS:
        high = None
    if option.above is not None:
        return f"above {option.above:g}" + (f" and at most {high:g}" if high is not None else "")
    if low is not None and high is not None:
        return "a number of 64 bit" if high >= 2**62 else f"between {low:g} and {high:g}"
    return f"at least {low:g}" if low is not None else ""


def _check(content: Any, option: RequestOption, where: str) -> None:
    if not isinstance(content, tuple):
        _check_one(content, option, where)
        return
    if option.max_items is not None and len(content) > option.max_items:
        raise InvalidRequest(f"{where} has {len(content)} entries; send at most {option.max_items}", where)
    for i, entry in enumerate(content):
        if isinstance(entry, tuple):
            _check_one(entry[1], option, f"{where}.{entry[0]}")
        else:
            _check_one(entry, option, f"{where}.{i}")


def _check_one(value: Any, option: RequestOption, where: str) -> None:
    if isinstance(value, str) and option.max_chars is not None:
        if not 1 <= len(value) <= option.max_chars:
            raise InvalidRequest(
                f"{where} has {len(value)} characters; it must have 1 to {option.max_chars}", where
            )
    elif isinstance(value, int | float) and not isinstance(value, bool):
        low = -math.inf if option.at_least is None else option.at_least
        high = math.inf if option.at_most is None else option.at_most
        above = -math.inf if option.above is None else option.above
        if not (low <= value <= high and above < value and math.isfinite(value)):
            raise InvalidRequest(f"{where} is {value}; it must be {range_of(option)}", where)


def _check_grammar(grammar: Grammar, sampling: SamplingParams, where: str) -> None:
    """Compile the grammar once to see whether it is valid."""
    for name in ("ignore_eos", "min_tokens"):
        if getattr(sampling, name):
            raise InvalidRequest(
                f"{name} cannot be combined with {where}, which says where the answer may end; leave one out",
                name,
            )
    try:
        check_grammar(grammar)
    except InvalidRequest as error:
        raise InvalidRequest(f"{where}: {error.message}", where) from error
