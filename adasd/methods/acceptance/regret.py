"""Acceptance within budgets of regret, by how much the target prefers its first choice to the drafted token."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from adasd.config import setting
from adasd.methods.inputs import BatchInputs, BlockInputs
from adasd.methods.policy import AcceptanceMethod, Bounds, RoundOutlook, Stateless
from adasd.methods.registry import register_acceptance
from adasd.rounds import Params

if TYPE_CHECKING:
    from torch import Tensor


@register_acceptance
@dataclass(frozen=True, slots=True)
class Regret(Stateless, AcceptanceMethod[None]):
    """Accept iff regret / value <= max_regret and the block's regrets so far stay within block_budget.

    regret = log max p - log p(x), the difference of the two logits. value = (K - j) / K at index j of a block of K
    tokens, since accepting a token saves less the later it is in its block. Budgets of 0 are exact in greedy decoding.
    A request's budget is its max_relaxed_fraction and max_distortion. We have not seen the published constants; these
    are ours.
    """

    max_regret: float = setting(math.log(2), "nats per token, at the block's beginning", low=0)
    block_budget: float = setting(2 * math.log(2), "nats per block", low=0)
    name: ClassVar[str] = "regret"
    summary: ClassVar[str] = (
        "accepts while the target's first choice is little likelier, within a budget per block"
    )
    source: ClassVar[str] = "ASD, arXiv:2608.03447"
    rule_params: ClassVar[Mapping[str, Bounds]] = {
        "max_regret": Bounds(0, math.inf),
        "block_budget": Bounds(0, math.inf),
    }

    def decide(self, state: None, outlook: RoundOutlook) -> Params | None:
        return {"max_regret": self.max_regret, "block_budget": self.block_budget}

    @staticmethod
    def chance(at: BatchInputs, ids_GKN: Tensor) -> Tensor:
        largest_GK1 = at.masked_logits_GKV.amax(-1, keepdim=True)
        regret_GKN = largest_GK1 - at.masked_logits_GKV.gather(-1, ids_GKN)
        missed_GK1 = regret_GKN[..., :1].masked_fill(at.exact_ok_GK[..., None], 0.0)
        # regret before each position; a forbidden token's is infinite
        spent_GK1 = missed_GK1.cumsum(dim=1).roll(1, dims=1)
        spent_GK1[:, :1] = 0.0
        value_GK1 = 1 - at.place_K[None, :, None] / at.lens_G[:, None, None].clamp_min(1)
        within_GKN = regret_GKN <= at.number("max_regret") * value_GK1
        return (within_GKN & (spent_GK1 + regret_GKN <= at.number("block_budget"))).float()

    @staticmethod
    def reference_chance(block: BlockInputs, i: int, token: int) -> float:
        def regret(at: int, of: int) -> float:
            return max(block.logits[at]) - block.logits[at][of]

        value = (len(block.tokens) - i) / len(block.tokens)
        spent = sum(regret(j, block.tokens[j]) for j in range(i) if not block.exact_ok(j))
        here = regret(i, token)
        return float(
            here <= block.number("max_regret") * value and spent + here <= block.number("block_budget")
        )
