"""Fuzzy speculative decoding: a drafted token is accepted where the two distributions are similar."""

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
class Fsd(Stateless, AcceptanceMethod[None]):
    """Accept iff the Jensen-Shannon divergence is at most ``max_divergence`` nats (at most log 2 = 0.693).

    The authors' code swaps the arguments of the two divergences; its result is 2.95 times the true value in the median
    over random distributions, so their bound of 0.4 is divided by that.
    """

    max_divergence: float = setting(round(0.4 / 2.95, 4), "nats", low=0, high=1)
    name: ClassVar[str] = "fsd"
    summary: ClassVar[str] = (
        "accepts where the distributions' Jensen-Shannon divergence is at most 0.136 nats"
    )
    source: ClassVar[str] = "FSD, Holsman et al. 2025, with the divergence as defined"
    rule_params: ClassVar[Mapping[str, Bounds]] = {"max_distance": Bounds(0, math.inf)}
    needs_distances: ClassVar[bool] = True

    def decide(self, state: None, outlook: RoundOutlook) -> Params | None:
        return {"max_distance": math.sqrt(self.max_divergence / math.log(2))}

    @staticmethod
    def chance(at: BatchInputs, ids_GKN: Tensor) -> Tensor:
        return (at.distance_GK1 <= at.number("max_distance")).float()

    @staticmethod
    def reference_chance(block: BlockInputs, i: int, token: int) -> float:
        return float(block.distance(i) <= block.number("max_distance"))

    @staticmethod
    def largest_distance(params: Params) -> float | None:
        bound = params["max_distance"]
        return bound if isinstance(bound, float) else None
