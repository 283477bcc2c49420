"""AdaSD's acceptance as in the paper's first version: a threshold on the distance of the two distributions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from adasd.config import setting
from adasd.methods.distance_histograms import (
    CENTRES,
    MEMORY,
    WARM_LABELS,
    Histories,
    Label,
    Scope,
)
from adasd.methods.inputs import BatchInputs, BlockInputs
from adasd.methods.policy import AcceptanceMethod, Bounds, RoundOutlook
from adasd.methods.registry import register_acceptance
from adasd.rounds import Params, RoundCompleted

if TYPE_CHECKING:
    from torch import Tensor


@register_acceptance
@dataclass(frozen=True, slots=True)
class AdasdV1(AcceptanceMethod[Histories]):
    """Accept iff d < T_V = (mean d of accepted tokens + mean d of rejected ones) / 2.

    Nothing is relaxed while either class is small or the accepted tokens' mean is not below the rejected tokens'.
    The exact test comes first, which leaves the output's distribution as it is and accepts more. The guard
    ``min_ratio`` is ours.
    """

    labels: Label = setting(Label.OUTCOME, "what makes a judged token an accepted one")
    scope: Scope = setting(Scope.PROCESS, "whose verdicts make the threshold; not published")
    memory: float = setting(MEMORY, "labels after which the oldest fade; the paper keeps all", low=1)
    warm_labels: float = setting(
        WARM_LABELS, "labels per class from which tokens are relaxed; not published", low=2
    )
    min_ratio: float = setting(0.0, "least p(x) / max p of a relaxed token; 0 as published", low=0, high=1)
    name: ClassVar[str] = "adasd-v1"
    summary: ClassVar[str] = (
        "accepts below the midpoint of the mean distances of accepted and rejected tokens"
    )
    source: ClassVar[str] = "AdaSD v1, arXiv:2512.11280v1"
    rule_params: ClassVar[Mapping[str, Bounds]] = {"max_distance": Bounds(0, 1), "min_ratio": Bounds(0, 1)}
    needs_distances: ClassVar[bool] = True

    def start(self, shared: Histories | None) -> Histories:
        return Histories.start(shared, self.scope)

    def decide(self, state: Histories, outlook: RoundOutlook) -> Params | None:
        histograms = state.histograms
        if not histograms.is_warm(self.warm_labels):
            return None
        rejected, accepted = histograms.weights @ CENTRES / histograms.weights.sum(axis=1)
        if accepted >= rejected:
            return None  # the distance says nothing about acceptance here
        return {"max_distance": float(accepted + rejected) / 2, "min_ratio": self.min_ratio}

    def learn(self, state: Histories, round: RoundCompleted) -> Histories:
        return state.learn(round, self.labels, self.memory)

    @staticmethod
    def chance(at: BatchInputs, ids_GKN: Tensor) -> Tensor:
        is_near_GK1 = at.distance_GK1 < at.number("max_distance")
        return (is_near_GK1 & at.likely(ids_GKN, at.number("min_ratio"))).float()

    @staticmethod
    def reference_chance(block: BlockInputs, i: int, token: int) -> float:
        is_near = block.distance(i) < block.number("max_distance")
        return float(is_near and block.likely(i, token, block.number("min_ratio")))

    @staticmethod
    def largest_distance(params: Params) -> float | None:
        bound = params["max_distance"]
        return bound if isinstance(bound, float) else math.nan
