"""AdaSD's acceptance as in the paper's second version: the posterior of acceptance given the distance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from adasd.config import setting
from adasd.methods.distance_histograms import (
    MEMORY,
    WARM_LABELS,
    DistanceHistograms,
    Histories,
    Label,
    Scope,
)
from adasd.methods.inputs import BatchInputs, BlockInputs
from adasd.methods.kernel_density import Bandwidth, bandwidth, density
from adasd.methods.policy import AcceptanceMethod, Bounds, RoundOutlook
from adasd.methods.registry import register_acceptance
from adasd.rounds import NUM_DISTANCE_BINS, Params, RoundCompleted

if TYPE_CHECKING:
    from torch import Tensor

REFRESH_LABELS = 32
"""New labels between two fits."""


class Priors(StrEnum):
    """P(A) and P(R) in Bayes' rule; not published."""

    COUNTS = "counts"  # the shares of the two classes
    EQUAL = "equal"


class Decision(StrEnum):
    """How P(A | d) decides; not published."""

    MAP = "map"  # accept iff P >= 1/2
    STOCHASTIC = "stochastic"  # accept with probability P


@dataclass(frozen=True, slots=True)
class PosteriorState:
    histories: Histories = field(default_factory=Histories)
    table: tuple[float, ...] | None = None  # P(A | d) or the decision by bin; None: exact
    fitted_labels: int = 0  # labels seen by the last fit


@register_acceptance
@dataclass(frozen=True, slots=True)
class Adasd(AcceptanceMethod[PosteriorState]):
    """Accept by the posterior P(A | d) = p(d | A) P(A) / (p(d | A) P(A) + p(d | R) P(R)).

    p(d | A) and p(d | R) are Gaussian kernel densities (Silverman 1986) over the distances of accepted and rejected
    tokens, without distances of exactly 0 and 1. Ours: the posterior never rises with d, the exact test comes first
    (which leaves the output's distribution as it is and accepts more), and the guard ``min_ratio``.
    docs/algorithm.md lists what is published and what is not.
    """

    decision: Decision = setting(Decision.MAP, "accept iff P >= 1/2, or with probability P; not published")
    priors: Priors = setting(Priors.COUNTS, "P(A): the classes' shares, or equal; not published")
    bandwidth: Bandwidth = setting(Bandwidth.SILVERMAN, "rule of thumb for the kernel's width; not published")
    labels: Label = setting(Label.OUTCOME, "what makes a judged token an accepted one")
    scope: Scope = setting(Scope.PROCESS, "whose verdicts make the densities; not published")
    memory: float = setting(MEMORY, "labels after which the oldest fade; the paper keeps all", low=1)
    warm_labels: float = setting(
        WARM_LABELS, "labels per class from which tokens are relaxed; not published", low=2
    )
    min_ratio: float = setting(0.0, "least p(x) / max p of a relaxed token; 0 as published", low=0, high=1)
    name: ClassVar[str] = "adasd"
    summary: ClassVar[str] = (
        "accepts where the learned posterior of acceptance given the distance is at least 1/2"
    )
    source: ClassVar[str] = "AdaSD v2, arXiv:2512.11280v2"
    rule_params: ClassVar[Mapping[str, Bounds]] = {
        "chances": Bounds(0, 1, NUM_DISTANCE_BINS),
        "min_ratio": Bounds(0, 1),
    }
    needs_distances: ClassVar[bool] = True

    def start(self, shared: PosteriorState | None) -> PosteriorState:
        begun = PosteriorState(Histories.start(shared.histories if shared else None, self.scope))
        if shared is None or self.scope is Scope.REQUEST:
            return begun
        return replace(begun, table=shared.table, fitted_labels=shared.fitted_labels)

    def decide(self, state: PosteriorState, outlook: RoundOutlook) -> Params | None:
        return None if state.table is None else {"chances": state.table, "min_ratio": self.min_ratio}

    def learn(self, state: PosteriorState, round: RoundCompleted) -> PosteriorState:
        histories = state.histories.learn(round, self.labels, self.memory)
        num_labels = histories.histograms.num_labels
        if num_labels - state.fitted_labels < REFRESH_LABELS:
            return replace(state, histories=histories)
        return PosteriorState(histories, self.fit(histories.histograms), num_labels)

    def fit(self, histograms: DistanceHistograms) -> tuple[float, ...] | None:
        """The table that is sent to the target; None if it would accept nothing."""
        if not histograms.is_warm(self.warm_labels):
            return None
        chance = self.posterior(histograms)
        if self.decision is Decision.MAP:
            chance = (chance >= 0.5).astype(np.float64)
        return tuple(chance.tolist()) if chance.any() else None

    def posterior(self, histograms: DistanceHistograms) -> NDArray[np.float64]:
        """P(A | d) at each bin's centre, never rising with d; 0 after the last bin with any density."""
        prior = histograms.weights.sum(axis=1) if self.priors is Priors.COUNTS else np.ones(2)
        joint_R, joint_A = (
            share * density(weights, bandwidth(weights, self.bandwidth))
            for share, weights in zip(prior / prior.sum(), histograms.weights, strict=True)
        )
        total = joint_R + joint_A
        known = total > 1e-9
        ratio = np.divide(joint_A, total, out=np.zeros_like(total), where=known)
        return np.minimum.accumulate(without_gaps(ratio, known))

    @staticmethod
    def chance(at: BatchInputs, ids_GKN: Tensor) -> Tensor:
        chances_GT = at.table("chances")
        num_bins = chances_GT.shape[1]
        bin_GK = (at.distance_GK1[..., 0].nan_to_num(0.0) * num_bins).long().clamp(0, num_bins - 1)
        chance_GK1 = chances_GT.gather(1, bin_GK)[..., None].masked_fill(at.distance_GK1.isnan(), 0.0)
        return chance_GK1 * at.likely(ids_GKN, at.number("min_ratio"))

    @staticmethod
    def reference_chance(block: BlockInputs, i: int, token: int) -> float:
        if not block.likely(i, token, block.number("min_ratio")):
            return 0.0
        chances = block.table("chances")
        return chances[min(len(chances) - 1, int(block.distance(i) * len(chances)))]

    @staticmethod
    def largest_distance(params: Params) -> float | None:
        chances = params["chances"]
        assert isinstance(chances, tuple)
        accepted = [i for i, chance in enumerate(chances) if chance >= 0.5]
        return (accepted[-1] + 1) / len(chances) if accepted else None


def without_gaps(curve: NDArray[np.float64], known: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Replace unknown entries by their lower bound: the next known value, 0 at the end."""
    filled = np.append(np.where(known, curve, 0.0), 0.0)
    source = np.where(known, np.arange(len(curve)), len(curve))
    return np.asarray(filled[np.minimum.accumulate(source[::-1])[::-1]])
