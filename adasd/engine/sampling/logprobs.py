"""Log-probabilities of answer and prompt tokens under the target, for sessions that want them."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from adasd.engine.work import Judged, StepInput, VerifyWork, Work
from adasd.results import TokenLogprob
from adasd.specdec.logprobs import token_logprobs


def with_logprobs(work: VerifyWork, judged: Judged, logits_JV: Tensor) -> Judged:
    """The judged block with log-probabilities of its tokens, from the raw logits of its positions."""
    num_top = work.slot.logprobs
    if num_top is None:
        return judged
    tokens = [*work.call.block[: judged.num_accepted], judged.next_token]
    return replace(judged, logprobs=token_logprobs(logits_JV[: len(tokens)], tokens, num_top))


def score_prompt(work: Work, given: StepInput, logits_NV: Tensor) -> tuple[TokenLogprob, ...]:
    """Log-probabilities of the prompt tokens that the input's scored positions (the first of N) predict."""
    if not given.num_scored or not isinstance(work, VerifyWork) or work.slot.prompt_logprobs is None:
        return ()
    tokens = work.scored_tokens(given)
    return token_logprobs(logits_NV[: len(tokens)], tokens, work.slot.prompt_logprobs)
