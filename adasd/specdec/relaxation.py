"""Relaxation: which tokens that fail the exact test stand all the same, and what offering that costs.

A rule's *offer* at a position is the set of tokens that it would accept there. What is gained in acceptance and
what the law is distorted by are the same number: TV(pi, p) = sum over the offered x of (q(x) - p(x))+ (for a rule
that accepts with a chance: times the chance). It does not depend on the token that was drafted, so a budget of it
can be kept without a bias of its own. Greedy and seeded sessions have no draft law at hand: there every relaxed
token costs 1, its largest possible cost.

Shape letters: B sessions, K drafted tokens, R entries of a draft row, F those sessions of the B that are sampled
without a seed, G those of the F whose rule is the one at hand.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from adasd.rounds import RelaxBelow, RelaxDivergence, RelaxTable, RelaxTolerance
from adasd.specdec.blocks import BlockBatch, RuleBatch
from adasd.specdec.exact_tests import RejectionSampling
from adasd.specdec.mentored import bounds
from adasd.specdec.opinion import Bar, bars, likes


@dataclass(frozen=True, slots=True, eq=False)
class Offer:
    """What the sessions' rules would accept."""

    willing_BK: Tensor  # bool: the drafted token, should it fail the exact test
    cost_FK: Tensor  # float32: total variation that the offer costs at the position
    divisor_FK: Tensor | None  # of the target's law where a rejected token is replaced; None: 1 everywhere

    @classmethod
    def of(
        cls,
        masked_logits_BJV: Tensor,
        blocks: BlockBatch,
        rules: RuleBatch,
        sampling: RejectionSampling | None,
        distance_BK: Tensor,
        accept_FK: Tensor,
        relax_BK: Tensor,
    ) -> Offer:
        """``accept_FK`` are the uniform numbers of rejection sampling, ``relax_BK`` those of tables."""
        opinion = bars(masked_logits_BJV, blocks, rules)
        chance_BK = _chances(distance_BK, rules)
        willing_BK = (relax_BK < chance_BK) | likes(opinion, blocks)
        cost_FK, divisor_FK = torch.zeros_like(accept_FK), None
        if sampling is not None and any(rule.relax for rule in rules.rules):
            _price_distances(cost_FK, sampling, rules, chance_BK)
            _price_opinions(cost_FK, sampling, opinion)
            _tolerate(willing_BK, cost_FK, sampling, rules, accept_FK)
            divisor_FK = _mentor(willing_BK, cost_FK, sampling, rules, accept_FK)
        return cls(willing_BK, cost_FK, divisor_FK)


@dataclass(frozen=True, slots=True, eq=False)
class Spent:
    """What of an offer the budgets allow."""

    offered_BK: Tensor  # bool: the offer holds at this position
    relaxed_BK: Tensor  # bool: it was used
    cost_BK: Tensor  # float32: what it cost

    @classmethod
    def of(cls, candidate_BK: Tensor, offer: Offer, sampled: list[int], rules: RuleBatch) -> Spent:
        """Position by position, within each rule's number of relaxed tokens and its total variation.

        ``candidate_BK``: the drafted token failed the exact test, may be emitted, and the rule is willing.
        """
        cost_BK = candidate_BK.float()
        if sampled:
            cost_BK[sampled] = offer.cost_FK
        if all(rule.max_distortion == torch.inf for rule in rules.rules):
            used_before_BK = candidate_BK.long().cumsum(dim=1) - candidate_BK.long()
            offered_BK = used_before_BK < rules.budget_B[:, None]
        else:
            offered_BK = _walk(candidate_BK, cost_BK, rules)
        return cls(offered_BK, candidate_BK & offered_BK, cost_BK.masked_fill(~offered_BK, 0.0))


def _walk(candidate_BK: Tensor, cost_BK: Tensor, rules: RuleBatch) -> Tensor:
    """A position whose offer costs more than what is left makes none; cheaper ones behind it may."""
    left_B = torch.tensor([rule.max_distortion for rule in rules.rules], device=cost_BK.device)
    tokens_B, offered = rules.budget_B.clone(), []
    for candidate_B, cost_B in zip(candidate_BK.unbind(1), cost_BK.unbind(1), strict=True):
        offered_B = (tokens_B > 0) & (cost_B <= left_B)
        left_B = torch.where(offered_B, left_B - cost_B, left_B)
        tokens_B = tokens_B - (candidate_B & offered_B).long()
        offered.append(offered_B)
    return torch.stack(offered, dim=1) if offered else candidate_BK


def _chances(distance_BK: Tensor, rules: RuleBatch) -> Tensor:
    """What each session's rule says to the distance, as a chance; no distance, no relaxation."""
    chance_BK = (distance_BK <= rules.max_distance_B[:, None]).float()
    if not rules.draws:
        return chance_BK
    num_bins = rules.accept_prob_BT.shape[1]
    bin_BK = (distance_BK.nan_to_num(0.0) * num_bins).long().clamp(0, num_bins - 1)
    by_table_BK = rules.accept_prob_BT.gather(1, bin_BK)
    return torch.where(distance_BK.isnan(), chance_BK, chance_BK.maximum(by_table_BK))


def _of_kind(sampling: RejectionSampling, rules: RuleBatch, *kinds: type) -> list[int]:
    """Indices among the F sessions of those with such a rule."""
    return [f for f, row in enumerate(sampling.rows) if isinstance(rules.rules[row].relax, kinds)]


def _price_distances(
    cost_FK: Tensor, sampling: RejectionSampling, rules: RuleBatch, chance_BK: Tensor
) -> None:
    """A distance says nothing of the token: everything allowed is offered."""
    if some := _of_kind(sampling, rules, RelaxBelow, RelaxTable):
        chance_GK = chance_BK[[sampling.rows[f] for f in some]]
        cost_FK[some] = chance_GK * sampling.excess()[some].sum(dim=-1)
    if alone := [f for f in some if rules.rules[sampling.rows[f]].alone]:
        chance_GK = chance_BK[[sampling.rows[f] for f in alone]]
        cost_FK[alone] = chance_GK * sampling.excess_alone()[alone].sum(dim=-1)


def _price_opinions(cost_FK: Tensor, sampling: RejectionSampling, opinion: list[Bar]) -> None:
    place = {row: f for f, row in enumerate(sampling.rows)}
    for bar in opinion:
        inside = [s for s, row in enumerate(bar.rows) if row in place]
        if inside:
            some = [place[bar.rows[s]] for s in inside]
            probs_GKR = bar.probs_SKV[inside].gather(-1, sampling.row_ids_FKR[some])
            liked_GKR = probs_GKR >= bar.needed_SK[inside][..., None]
            cost_FK[some] = (sampling.excess()[some] * liked_GKR).sum(dim=-1)


def _tolerate(
    willing_BK: Tensor, cost_FK: Tensor, sampling: RejectionSampling, rules: RuleBatch, accept_FK: Tensor
) -> None:
    """EARS (arXiv:2512.13194): u - tolerance (1 - max p) in place of u."""
    some = _of_kind(sampling, rules, RelaxTolerance)
    if not some:
        return
    rows = [sampling.rows[f] for f in some]
    largest_GK = sampling.target_probs_FJV[some, :-1].amax(dim=-1)
    tolerance = [_tolerance(rules, row) for row in rows]
    room_GK = torch.tensor(tolerance, device=cost_FK.device)[:, None] * (1 - largest_GK)
    willing_BK[rows] = (accept_FK[some] - room_GK) * sampling.draft_prob_FK[some] < sampling.target_prob_FK[
        some
    ]
    offered_GKR = room_GK[..., None] * sampling.row_probs_FKR[some]
    cost_FK[some] = torch.minimum(offered_GKR, sampling.excess()[some]).sum(dim=-1)


def _tolerance(rules: RuleBatch, row: int) -> float:
    relax = rules.rules[row].relax
    assert isinstance(relax, RelaxTolerance)
    return relax.tolerance


def _mentor(
    willing_BK: Tensor, cost_FK: Tensor, sampling: RejectionSampling, rules: RuleBatch, accept_FK: Tensor
) -> Tensor | None:
    """Mentored decoding: u a q < p in place of u q < p; the divisor b of every position."""
    some = _of_kind(sampling, rules, RelaxDivergence)
    if not some:
        return None
    rows = [sampling.rows[f] for f in some]
    target_GKV = sampling.target_probs_FJV[some, :-1]
    draft_GKV = torch.zeros_like(target_GKV).scatter_add_(
        -1, sampling.row_ids_FKR[some], sampling.row_probs_FKR[some]
    )
    limits = [
        relax.max_divergence for row in rows if isinstance(relax := rules.rules[row].relax, RelaxDivergence)
    ]
    limit_GK = torch.tensor(limits, dtype=torch.float64, device=cost_FK.device)[:, None].expand(
        target_GKV.shape[:2]
    )
    found = bounds(target_GKV.flatten(0, 1), draft_GKV.flatten(0, 1), limit_GK.flatten())
    lower_GK = found.lower_N.view(limit_GK.shape).to(cost_FK.dtype)
    willing_BK[rows] = (
        accept_FK[some] * lower_GK * sampling.draft_prob_FK[some] < sampling.target_prob_FK[some]
    )
    kept_GKV = torch.minimum(target_GKV / lower_GK[..., None], draft_GKV)
    cost_FK[some] = (kept_GKV - torch.minimum(target_GKV, draft_GKV)).sum(dim=-1)
    divisor_FK = torch.ones_like(cost_FK)
    divisor_FK[some] = found.upper_N.view(limit_GK.shape).to(cost_FK.dtype)
    return divisor_FK
