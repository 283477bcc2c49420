"""What a request turns into before its session begins: the workers' warp, and whether it fits."""

from __future__ import annotations

from adasd.errors import ContextTooLong
from adasd.messages import SamplingParams, Warp


def warp_of(sampling: SamplingParams, prompt_len: int, eos_ids: frozenset[int]) -> Warp:
    """The warp that both workers apply: everything of the request that shapes the law."""
    return Warp(
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        logit_bias=sampling.logit_bias,
        eos_ids=tuple(sorted(eos_ids | set(sampling.stop_token_ids))) if sampling.min_tokens else (),
        eos_from=prompt_len + sampling.min_tokens,
        seed=sampling.seed,
    )


def check_length(prompt_len: int, max_tokens: int, context_len: int) -> None:
    """Raise ContextTooLong unless prompt and answer fit, all in tokens."""
    if prompt_len + max_tokens > context_len:
        raise ContextTooLong(prompt_len, max_tokens, context_len)
