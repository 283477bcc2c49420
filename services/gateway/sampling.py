"""Sampling parameters of a body: defaults filled in, contradictions refused, seeds for several answers."""

from __future__ import annotations

import hashlib
import struct

from adasd.errors import ContextTooLong, InvalidRequest
from adasd.requests import Grammar, SamplingParams
from adasd.text.chat import check_text
from services.gateway.prompts import check_token
from services.gateway.schema import ChatBody, CompletionBody, GenerationBody

GREEDY_BELOW = 1e-4
"""Lower temperatures are greedy: dividing logits by them leaves the range of float32."""


def sampling_params(
    body: GenerationBody, max_tokens: int, vocab_size: int, grammar: Grammar | None = None
) -> SamplingParams:
    """Raises InvalidRequest where fields contradict one another or the vocabulary."""
    for i, stop in enumerate(body.stop or ()):
        check_text(stop, f"stop.{i}")
    for i, token_id in enumerate(body.stop_token_ids or ()):
        check_token(token_id, vocab_size, f"stop_token_ids.{i}")
    min_tokens = body.min_tokens or 0
    if min_tokens > max_tokens:
        raise InvalidRequest(
            f"min_tokens is {min_tokens}, but the answer holds at most {max_tokens}; lower min_tokens",
            "min_tokens",
        )
    temperature = 1.0 if body.temperature is None else body.temperature
    logprobs = num_logprobs(body)
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
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        repetition_penalty=1.0 if body.repetition_penalty is None else body.repetition_penalty,
        grammar=grammar,
        logprobs=logprobs,
        prompt_logprobs=logprobs if isinstance(body, CompletionBody) and body.echo else None,
    )


def num_logprobs(body: GenerationBody) -> int | None:
    """Likeliest tokens to report beside each token; None if log-probabilities were not asked for."""
    if isinstance(body, CompletionBody):
        return body.logprobs
    if not isinstance(body, ChatBody):
        return None
    if body.logprobs:
        return body.top_logprobs or 0
    if body.top_logprobs:
        raise InvalidRequest(
            f"top_logprobs is {body.top_logprobs}, but logprobs is not true; set it or leave both out",
            "top_logprobs",
        )
    return None


def num_choices(body: GenerationBody) -> int:
    """Answers per prompt; raises InvalidRequest for a best_of that would throw some away."""
    wanted = body.n or 1
    if body.best_of is not None and body.best_of != wanted:
        raise InvalidRequest(
            f"best_of is {body.best_of} and n is {wanted}: this server shows every answer that it makes; "
            "leave best_of out",
            "best_of",
        )
    return wanted


def seed_of_choice(seed: int | None, number: int) -> int | None:
    """The seed of one prompt's ``number``-th answer: the first has the request's own, so n = 1 and n = 4 agree."""
    if seed is None or number == 0:
        return seed
    digest = hashlib.blake2b(struct.pack("<qq", seed, number), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def answer_len(prompt_len: int, asked: int | None, context_len: int, param: str) -> int:
    """Tokens that the answer may have; raises ContextTooLong naming both lengths."""
    at_least = 1 if asked is None else asked
    if prompt_len + at_least > context_len:
        too_long = ContextTooLong(prompt_len, at_least, context_len)
        too_long.param = param
        raise too_long
    return asked if asked is not None else context_len - prompt_len


def _logit_bias(bias: dict[str, float], vocab_size: int) -> tuple[tuple[int, float], ...]:
    ids: dict[int, float] = {}
    for key, value in bias.items():
        if not (key.isascii() and key.isdigit() and len(key) < 11):
            raise InvalidRequest(f"logit_bias has the key {key!r:.40}; keys are token ids", "logit_bias")
        check_token(int(key), vocab_size, f"logit_bias.{key}")
        ids[int(key)] = value
    return tuple(ids.items())
