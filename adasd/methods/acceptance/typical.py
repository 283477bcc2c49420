"""Typical acceptance: a drafted token is accepted if it is not much less likely than the target's typical tokens."""

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
class Typical(Stateless, AcceptanceMethod[None]):
    """Accept iff p(x) > min(epsilon, delta exp(-H(p))), H in nats, with Medusa's constants."""

    epsilon: float = setting(0.09, "probability that is always enough (posterior_threshold)", low=0, high=1)
    delta: float = setting(0.3, "share of exp(-H) that is enough (posterior_alpha)", low=0, high=1)
    name: ClassVar[str] = "typical"
    summary: ClassVar[str] = "accepts where p(x) > min(0.09, 0.3 exp(-H(p)))"
    source: ClassVar[str] = "typical acceptance, Medusa, arXiv:2401.10774"
    rule_params: ClassVar[Mapping[str, Bounds]] = {"epsilon": Bounds(0, 1), "delta": Bounds(0, 1)}

    def decide(self, state: None, outlook: RoundOutlook) -> Params | None:
        return {"epsilon": self.epsilon, "delta": self.delta}

    @staticmethod
    def chance(at: BatchInputs, ids_GKN: Tensor) -> Tensor:
        needed_GK1 = (at.number("delta") * (-at.entropy_GK1).exp()).minimum(at.number("epsilon"))
        return (at.probs_of(ids_GKN) > needed_GK1).float()

    @staticmethod
    def reference_chance(block: BlockInputs, i: int, token: int) -> float:
        needed = min(block.number("epsilon"), block.number("delta") * math.exp(-block.entropy(i)))
        return float(block.plain(i)[token] > needed)
