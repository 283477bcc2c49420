"""AdaSD's acceptance as in the paper's first version: a threshold on the distance of the two laws."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from adasd.methods.distance import Laws, Order
from adasd.methods.distance_histograms import CENTRES, DistanceHistograms, HistogramOptions
from adasd.methods.kernel_density import Bandwidth, bandwidth, density
from adasd.methods.policy import RoundOutlook
from adasd.methods.scope import AcceptanceScope
from adasd.rounds import RelaxBelow, RoundCompleted


class Form(StrEnum):
    """Readings of T_V (the paper's own is not known to us; docs/algorithm.md)."""

    MIDPOINT = "midpoint"  # half way between the means of the two classes
    MEAN_ALL = "mean-all"  # mean of all distances, the paper's simple baseline
    MEAN_REJECTED = "mean-rejected"  # as T_G is made
    CROSSING = "crossing"  # where the weighted densities of the two classes first cross


@dataclass(frozen=True, slots=True)
class ThresholdOptions:
    form: Form = Form.MIDPOINT
    order: Order = Order.EXACT_FIRST
    laws: Laws = Laws.RAW
    scope: AcceptanceScope = AcceptanceScope.FROZEN
    evidence: HistogramOptions = field(default_factory=HistogramOptions)


@dataclass(frozen=True, slots=True)
class ThresholdState:
    evidence: DistanceHistograms = field(default_factory=DistanceHistograms)
    frozen: bool = False


@dataclass(frozen=True, slots=True)
class Threshold:
    """Accepts below T_V; exact while either class is small or the means stand the wrong way round."""

    options: ThresholdOptions = field(default_factory=ThresholdOptions)
    name: str = "threshold"
    summary: str = "accepts below the midpoint of the mean distances of accepted and rejected tokens"
    source: str = "AdaSD v1, arXiv:2512.11280v1"
    needs_distances: bool = True
    only_sampled: bool = False

    @property
    def processed(self) -> bool:
        return self.options.laws is Laws.PROCESSED

    @property
    def alone(self) -> bool:
        return self.options.order is Order.ALONE

    def start(self, shared: ThresholdState | None) -> ThresholdState:
        if shared is None or self.options.scope is AcceptanceScope.REQUEST:
            return ThresholdState()
        return ThresholdState(shared.evidence, frozen=self.options.scope is AcceptanceScope.FROZEN)

    def decide(self, state: ThresholdState, outlook: RoundOutlook) -> RelaxBelow | None:
        if not state.evidence.warm(self.options.evidence):
            return None
        rejected, accepted = state.evidence.weights @ CENTRES / state.evidence.weights.sum(axis=1)
        if accepted >= rejected:
            return None  # the distance says nothing about acceptance here
        match self.options.form:
            case Form.MIDPOINT:
                return RelaxBelow(float(accepted + rejected) / 2)
            case Form.MEAN_ALL:
                return RelaxBelow(
                    float((state.evidence.weights @ CENTRES).sum() / state.evidence.weights.sum())
                )
            case Form.MEAN_REJECTED:
                return RelaxBelow(float(rejected))
            case Form.CROSSING:
                return _below_crossing(state.evidence)

    def learn(self, state: ThresholdState, round: RoundCompleted) -> ThresholdState:
        if state.frozen:
            return state
        return ThresholdState(state.evidence.add(round, self.options.evidence))


def _below_crossing(evidence: DistanceHistograms) -> RelaxBelow | None:
    """Up to the first distance, from the accepted tokens' mean on, at which rejected ones are denser."""
    rejected, accepted = (
        weights.sum() * density(weights, bandwidth(weights, Bandwidth.SILVERMAN))
        for weights in evidence.weights
    )
    start = int(np.average(CENTRES, weights=evidence.accepted) * len(CENTRES))
    denser = np.flatnonzero(rejected[start:] > accepted[start:])
    if not len(denser):
        return RelaxBelow(1.0)
    return RelaxBelow(float((start + denser[0]) / len(CENTRES))) if denser[0] else None
