"""The target's log-probabilities of tokens, before penalties, bias, masks and temperature.

Shape letters: N positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from adasd.results import TokenLogprob


def token_logprobs(logits_NV: Tensor, tokens: Sequence[int], num_top: int) -> tuple[TokenLogprob, ...]:
    """The log-probability of ``tokens[n]`` at position n, and the ``num_top`` likeliest tokens there."""
    if not tokens:
        return ()
    logits_NV = logits_NV.float()
    total_N1 = logits_NV.logsumexp(-1, keepdim=True)
    tokens_N1 = torch.tensor(tokens, dtype=torch.int64, device=logits_NV.device)[:, None]
    own = (logits_NV.gather(-1, tokens_N1) - total_N1)[:, 0].tolist()
    if not num_top:
        return tuple(map(TokenLogprob, own))
    top = logits_NV.topk(min(num_top, logits_NV.shape[-1]), dim=-1)
    ids, values = top.indices.tolist(), (top.values - total_N1).tolist()
    return tuple(
        TokenLogprob(logprob, tuple(zip(row_ids, row_values, strict=True)))
        for logprob, row_ids, row_values in zip(own, ids, values, strict=True)
    )
