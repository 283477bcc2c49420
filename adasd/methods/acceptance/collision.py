"""Acceptance by the target's own probability of the drafted token: our own rule."""

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
class Collision(Stateless, AcceptanceMethod[None]):
    """Accept iff p(x) >= c * sum p^2: at most log(1/c) nats more surprising than the target's own sample.

    ``sum p^2`` is the expected probability of the target's own sample, so c = 1 requires a token that is as likely as
    the target's own choice is on average (the set that p-less sampling keeps, arXiv:2509.23234). c is 1/2 (one bit)
    until the request has spent half of its relaxation budget, then equals the spent share, up to 1, so that the rest
    of the budget goes to the likeliest tokens. It depends only on the request's own tokens. Derivation:
    docs/collision.md.
    """

    start_ratio: float = setting(0.5, "c of a fresh budget", low=0.001, high=1)
    name: ClassVar[str] = "collision"
    summary: ClassVar[str] = (
        "accepts what the target likes at least half as much as its own samples, stricter with use"
    )
    source: ClassVar[str] = "this project, docs/collision.md"
    rule_params: ClassVar[Mapping[str, Bounds]] = {"ratio": Bounds(0, math.inf)}

    def decide(self, state: None, outlook: RoundOutlook) -> Params | None:
        if outlook.max_relaxed_fraction == 0:
            return None
        allowed = outlook.max_relaxed_fraction * outlook.num_emitted
        used = outlook.num_relaxed / allowed if allowed else 0.0
        return {"ratio": max(self.start_ratio, min(1.0, used))}

    @staticmethod
    def chance(at: BatchInputs, ids_GKN: Tensor) -> Tensor:
        collision_GK1 = at.probs_GKV.square().sum(-1, keepdim=True)
        return (at.probs_of(ids_GKN) >= at.number("ratio") * collision_GK1).float()

    @staticmethod
    def reference_chance(block: BlockInputs, i: int, token: int) -> float:
        probs = block.plain(i)
        return float(probs[token] >= block.number("ratio") * sum(p * p for p in probs))
