"""From a request to the call that opens its slots, and the check that it fits the context."""

from __future__ import annotations

from adasd.errors import ContextTooLong
from adasd.requests import GenerationRequest, SamplingParams
from adasd.rounds import OpenCall, SamplingTransform


def open_call(request: GenerationRequest, eos_ids: frozenset[int]) -> OpenCall:
    """The call that opens the request's slot on both workers."""
    sampling, prompt_len = request.sampling, len(request.prompt)
    return OpenCall(
        request.request_id,
        transform_of(sampling, prompt_len, eos_ids),
        max_len=prompt_len + sampling.max_tokens,
        logprobs=sampling.logprobs,
        prompt_logprobs=sampling.prompt_logprobs,
    )


def transform_of(sampling: SamplingParams, prompt_len: int, eos_ids: frozenset[int]) -> SamplingTransform:
    """The sampling transform that both workers apply to logits."""
    return SamplingTransform(
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        logit_bias=sampling.logit_bias,
        eos_ids=tuple(sorted(eos_ids | set(sampling.stop_token_ids))) if sampling.min_tokens else (),
        eos_from=prompt_len + sampling.min_tokens,
        seed=sampling.seed,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        repetition_penalty=sampling.repetition_penalty,
        answer_from=prompt_len,
        grammar=sampling.grammar,
    )


def check_length(prompt_len: int, max_tokens: int, context_len: int) -> None:
    """Raise ContextTooLong unless prompt and answer fit. All numbers are in tokens."""
    if prompt_len + max_tokens > context_len:
        raise ContextTooLong(prompt_len, max_tokens, context_len)
