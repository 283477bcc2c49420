"""Relaxation: which tokens are accepted although they fail the exact test, and the distortion that this costs.

A method (adasd.methods.acceptance) gives the chance that it would accept a token. The gain in acceptance equals the
distortion: the total variation between the emitted and the target's distribution is the sum over x of
chance(x) (q(x) - p(x))+. It does not depend on the drafted token, so enforcing a budget on it adds no bias. For greedy
and seeded sessions, which send no draft distribution, and for methods that look at later tokens, every relaxed token
costs 1, the largest possible cost.

Shape letters: B sessions, K drafted tokens, R entries of a top-k distribution, V vocabulary, N token ids per position,
T entries of a table, F of the B sessions that are sampled without a seed, G of the B sessions under one method.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from adasd.methods.policy import AcceptanceMethod
from adasd.methods.registry import acceptance_method
from adasd.rounds import AcceptanceRule, Params
from adasd.specdec.blocks import BlockBatch
from adasd.specdec.divergence import entropy
from adasd.specdec.entries import entries, put_entries
from adasd.specdec.exact_tests import ExactTest


@dataclass(frozen=True, eq=False)
class RelaxationBatch:
    """The drafted positions of G sessions under one acceptance method: its ``BatchInputs``."""

    params: tuple[Params, ...]  # of each session
    lens_G: Tensor  # drafted tokens of each session; positions from there on are padding
    masked_logits_GKV: Tensor  # the target's after penalties, bias and masks, at temperature 1
    exact_ok_GK: Tensor  # bool: the drafted token passes the exact test
    distance_GK1: Tensor  # Jensen-Shannon distance, base 2; NaN without the draft's distributions

    @cached_property
    def probs_GKV(self) -> Tensor:
        """The target's probabilities after masks at temperature 1."""
        return torch.softmax(self.masked_logits_GKV, dim=-1)

    @cached_property
    def entropy_GK1(self) -> Tensor:
        """Their entropy in nats."""
        return entropy(self.probs_GKV)[..., None]

    @cached_property
    def place_K(self) -> Tensor:
        """Each position's index in its block."""
        return torch.arange(self.exact_ok_GK.shape[1], device=self.lens_G.device)

    def probs_of(self, ids_GKN: Tensor) -> Tensor:
        """The target's probabilities of some tokens."""
        return self.probs_GKV.gather(-1, ids_GKN)

    def likely(self, ids_GKN: Tensor, min_ratio_G11: Tensor) -> Tensor:
        """Whether tokens have at least this share of the largest probability."""
        return self.probs_of(ids_GKN) >= min_ratio_G11 * self.probs_GKV.amax(-1, keepdim=True)

    def number(self, name: str) -> Tensor:
        """A parameter of each session, [G, 1, 1]."""
        values = [params[name] for params in self.params]
        return torch.tensor(values, dtype=torch.float32, device=self.lens_G.device)[:, None, None]

    def table(self, name: str) -> Tensor:
        """A table of each session, [G, T]."""
        values = [params[name] for params in self.params]
        return torch.tensor(values, dtype=torch.float32, device=self.lens_G.device)


@dataclass(frozen=True, slots=True, eq=False)
class Relaxation:
    """The relaxed tokens, within the sessions' budgets."""

    relaxed_BK: Tensor  # bool: failed the exact test, accepted anyway if all tokens before are accepted
    cost_BK: Tensor  # float32: expected total variation to the target's distribution


def relax(
    masked_logits_BJV: Tensor,
    blocks: BlockBatch,
    rules: Sequence[AcceptanceRule],
    exact: ExactTest,
    distance_BK: Tensor,
    uniform_BK: Tensor,
) -> Relaxation:
    """Apply every session's acceptance method within its budgets; ``uniform_BK`` are U[0, 1)."""
    groups = _by_method(rules, blocks)
    willing_BK = torch.zeros_like(exact.ok_BK)
    if not groups:
        return Relaxation(willing_BK, willing_BK.float())
    offered_FKR = exact.offered_nothing()
    whole_tokens = []
    for method, indices in groups:
        at = RelaxationBatch(
            tuple(rules[b].params for b in indices),
            entries(blocks.lens_B, indices),
            entries(masked_logits_BJV, indices)[:, :-1],
            entries(exact.ok_BK, indices),
            entries(distance_BK, indices)[..., None],
        )
        offered_GK1 = entries(blocks.tokens_BK, indices)[..., None]
        ids_GKN = torch.cat([offered_GK1, entries(blocks.top_ids_BKR, indices)], dim=-1)
        chance_GKN = method.chance(at, ids_GKN).expand_as(ids_GKN)
        put_entries(willing_BK, indices, entries(uniform_BK, indices) < chance_GKN[..., 0])
        if method.costs_whole_tokens:
            whole_tokens += indices
        elif exact.rejection is not None:
            place = {b: f for f, b in enumerate(exact.rejection.indices)}
            if inside := [g for g, b in enumerate(indices) if b in place]:
                offered_FKR[[place[indices[g]] for g in inside]] = chance_GKN[inside][..., 1:]
    candidate_BK = ~exact.ok_BK & exact.allowed_BK & willing_BK
    cost_BK = candidate_BK.float()
    if exact.rejection is not None:
        of_sampled = [f for f, b in enumerate(exact.rejection.indices) if b not in whole_tokens]
        cost_FK = (offered_FKR * exact.rejection.excess()).sum(dim=-1)
        cost_BK[[exact.rejection.indices[f] for f in of_sampled]] = cost_FK[of_sampled]
    offered_BK = _within_budgets(candidate_BK, cost_BK, rules)
    return Relaxation(candidate_BK & offered_BK, cost_BK.masked_fill(~offered_BK, 0.0))


def _by_method(
    rules: Sequence[AcceptanceRule], blocks: BlockBatch
) -> list[tuple[AcceptanceMethod[object], list[int]]]:
    """The sessions with a block and a relaxation budget left, by acceptance method."""
    groups: dict[str, list[int]] = {}
    for b, rule in enumerate(rules):
        if not rule.is_exact and rule.relax_budget > 0 and blocks.lens[b]:
            groups.setdefault(rule.name, []).append(b)
    return [(acceptance_method(name), indices) for name, indices in groups.items()]


def _within_budgets(candidate_BK: Tensor, cost_BK: Tensor, rules: Sequence[AcceptanceRule]) -> Tensor:
    """Where the budgets still allow relaxation, position by position: [B, K] bool.

    A position that costs more total variation than is left is judged exactly; later, cheaper ones may be relaxed.
    """
    budgets = [0 if rule.is_exact else rule.relax_budget for rule in rules]
    tokens_B = torch.tensor(budgets, device=cost_BK.device)
    if all(rule.max_distortion == torch.inf for rule in rules):
        return candidate_BK.long().cumsum(dim=1) - candidate_BK.long() < tokens_B[:, None]
    left_B = torch.tensor([rule.max_distortion for rule in rules], device=cost_BK.device)
    offered = []
    for candidate_B, cost_B in zip(candidate_BK.unbind(1), cost_BK.unbind(1), strict=True):
        offered_B = (tokens_B > 0) & (cost_B <= left_B)
        left_B = torch.where(offered_B, left_B - cost_B, left_B)
        tokens_B = tokens_B - (candidate_B & offered_B).long()
        offered.append(offered_B)
    return torch.stack(offered, dim=1) if offered else candidate_BK
