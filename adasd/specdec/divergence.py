"""Entropy and Jensen-Shannon distance of next-token distributions, the two signals of AdaSD.

Shape letters: K tokens of a block, R entries of a top-k distribution, V vocabulary; ``...`` any batch shape.
Probabilities lie in the last dimension. Computed in float32, or float64 if the input is float64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def entropy(probs: Tensor) -> Tensor:
    """Shannon entropy in nats over the last dimension: [..., V] -> [...]; probabilities of 0 add nothing."""
    terms: Tensor = torch.special.entr(_wide(probs))
    return terms.sum(-1)


def js_distance(target_probs: Tensor, draft_probs: Tensor) -> Tensor:
    """Jensen-Shannon distance, base 2, in [0, 1]: two [..., V] -> [...].

    The square root of the divergence, a metric (Endres & Schindelin 2003). 0: equal, 1: disjoint.
    """
    return _distance(_js_terms(_wide(target_probs), _wide(draft_probs)).sum(-1))


def js_distance_truncated(target_probs_KV: Tensor, draft_ids_KR: Tensor, draft_logprobs_KR: Tensor) -> Tensor:
    """Distance to a draft's top-k distribution with R entries: [K, V], [K, R], [K, R] -> [K].

    Outside the R ids, the draft's mass Q and the target's mass P are compared as one tail bucket, so the result
    never exceeds the true distance; the divergence is too small by at most ``m * h_b(P / (P + Q))`` bits
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
    draft_tail_K = draft_tail_K.masked_fill(complete_K, 0.0)  # nothing is missing: the rest is rounding
    return _distance(_js_terms(target_KR, draft_KR).sum(-1) + _js_terms(target_tail_K, draft_tail_K))


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def _js_terms(target: Tensor, draft: Tensor) -> Tensor:
    """Each token's share of the divergence in bits: ``m * (1 - h_b(target / (target + draft)))``.

    Written with ``skew = (target - draft) / (target + draft)`` it is exactly 0 for equal probabilities, so equal
    distributions have distance 0 and not the root of a rounding error.
    """
    both = target + draft
    skew = (target - draft) / both.clamp_min(torch.finfo(both.dtype).tiny)
    xlog1py = torch.special.xlog1py
    terms: Tensor = xlog1py(1 + skew, skew) + xlog1py(1 - skew, -skew)
    return both * terms / (4 * math.log(2))


def _distance(divergence: Tensor) -> Tensor:
    return divergence.clamp(0.0, 1.0).sqrt()
