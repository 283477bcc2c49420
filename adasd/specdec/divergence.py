"""Entropy and Jensen-Shannon distance of next-token distributions; the two signals AdaSD decides on.

Shape letters: K rows of a block, R entries of a truncated row, V vocabulary; ``...`` any batch shape.
Probabilities lie in the last dimension. Work is done in float32, or float64 where that comes in.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def entropy(probs: Tensor) -> Tensor:
    """Shannon entropy in nats over the last dimension: [..., V] -> [...]; zero mass adds nothing."""
    terms: Tensor = torch.special.entr(_wide(probs))
    return terms.sum(-1)


def js_distance(target_probs: Tensor, draft_probs: Tensor) -> Tensor:
    """Jensen-Shannon distance, base 2, in [0, 1]: two [..., V] -> [...].

    The square root of the divergence, a metric (Endres & Schindelin 2003). 0: equal, 1: disjoint.
    """
    return _distance(_js_terms(_wide(target_probs), _wide(draft_probs)).sum(-1))


def js_distance_truncated(target_probs_KV: Tensor, draft_ids_KR: Tensor, draft_logprobs_KR: Tensor) -> Tensor:
    """Distance to a draft distribution of which only R entries are known: [K, V], [K, R], [K, R] -> [K].

    The draft's missing mass Q stands against the target's mass P outside the R ids as one tail bucket, so
    this never exceeds the true distance; the divergence falls short by at most ``m * h_b(P / (P + Q))`` bits
    with ``m = (P + Q) / 2`` and the binary entropy h_b. With all V entries it equals ``js_distance``.
    Entries with log-probability minus infinity are padding: their ids must be valid and count as tail.
    """
    known_KR = draft_logprobs_KR > -torch.inf
    draft_KR = _wide(draft_logprobs_KR).exp()
    target_KV = _wide(target_probs_KV)
    target_KR = target_KV.gather(-1, draft_ids_KR.long()) * known_KR
    target_tail_K = (target_KV.sum(-1) - target_KR.sum(-1)).clamp_min(0.0)
    draft_tail_K = (1.0 - draft_KR.sum(-1)).clamp_min(0.0)
    complete_K = known_KR.sum(-1) >= target_KV.shape[-1]
    draft_tail_K = draft_tail_K.masked_fill(complete_K, 0.0)  # nothing is missing: what is left is rounding
    return _distance(_js_terms(target_KR, draft_KR).sum(-1) + _js_terms(target_tail_K, draft_tail_K))


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def _js_terms(target: Tensor, draft: Tensor) -> Tensor:
    """Each token's share of the divergence in bits: ``m * (1 - h_b(target / (target + draft)))``.

    With ``skew = (target - draft) / (target + draft)`` it is exactly 0 where both agree, so that equal distributions
    have distance 0 and not the root of a rounding error.
    """
    both = target + draft
    skew = (target - draft) / both.clamp_min(torch.finfo(both.dtype).tiny)
    xlog1py = torch.special.xlog1py
    terms: Tensor = xlog1py(1 + skew, skew) + xlog1py(1 - skew, -skew)
    return both * terms / (4 * math.log(2))


def _distance(divergence: Tensor) -> Tensor:
    return divergence.clamp(0.0, 1.0).sqrt()
