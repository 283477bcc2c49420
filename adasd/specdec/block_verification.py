"""Block verification (Sun et al., arXiv:2403.10444): rejection sampling of a block as a whole.

    p_0 = 1,  p_i = min(1, p_(i-1) p(x_i) / q(x_i))
    S_i = sum over x of max(p_i p(x | x_1..i) - q(x | x_1..i), 0)
    h_i = S_i / (S_i + 1 - p_i) for i < K,  h_K = p_K
    keep the longest prefix whose h_i exceeds its uniform number; the next token has the weights
    max(p_i p - q, 0), or p if the whole block is accepted

The output has the target's distribution, as token by token, and on average at least as many tokens are accepted: a
token likelier under p than under q makes up for one that is less likely. It stays exact if the drafted prefix decides
the block's length. Shape letters: F sessions sampled without a seed, K drafted tokens, V vocabulary, R entries of a
top-k distribution.
"""

from __future__ import annotations

import torch
from torch import Tensor


def prefix_weights(target_prob_FK: Tensor, draft_prob_FK: Tensor) -> Tensor:
    """p_0 .. p_K, [F, K + 1]."""
    ratio_FK = target_prob_FK / draft_prob_FK.clamp_min(torch.finfo(draft_prob_FK.dtype).tiny)
    weights = [torch.ones(len(ratio_FK), dtype=ratio_FK.dtype, device=ratio_FK.device)]
    for ratio_F in ratio_FK.unbind(dim=1):
        weights.append((weights[-1] * ratio_F).clamp_max(1.0))
    return torch.stack(weights, dim=1)


def num_kept(
    weights_FL: Tensor,
    target_top_probs_FKR: Tensor,
    top_probs_FKR: Tensor,
    lens_F: Tensor,
    uniform_FK: Tensor,
) -> Tensor:
    """Accepted tokens of each block, [F] int64.

    ``weights_FL`` are ``prefix_weights`` (L = K + 1); ``top_probs_FKR`` are the draft's top-k distributions, and
    ``target_top_probs_FKR`` the target's probabilities of the same tokens.
    """
    num_drafted = uniform_FK.shape[1]
    inner_FK = weights_FL[:, :num_drafted]  # p_i beside the distributions that follow x_i
    overlap_FK = torch.minimum(inner_FK[..., None] * target_top_probs_FKR, top_probs_FKR).sum(dim=-1)
    excess_FK = (inner_FK - overlap_FK).clamp_min(0.0)
    rest_FK = 1.0 - inner_FK
    total_FK = excess_FK + rest_FK
    share_FK = torch.where(total_FK > 0, excess_FK / total_FK, torch.ones_like(total_FK))
    at_K = torch.arange(1, num_drafted + 1, device=lens_F.device)
    # h_i: shares of inner prefixes shifted by one, p_K at the block's own end
    chance_FK = torch.cat([share_FK[:, 1:], weights_FL[:, -1:]], dim=1)
    is_end_FK = at_K == lens_F[:, None]
    chance_FK = torch.where(is_end_FK, weights_FL[:, 1:], chance_FK)
    stands_FK = (uniform_FK < chance_FK) & (at_K <= lens_F[:, None])
    return (stands_FK * at_K).amax(dim=1)
