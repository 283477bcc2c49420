"""AdaSD's acceptance as in the paper's second version: the posterior of acceptance given the distance."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from adasd.methods.distance import Laws, Order
from adasd.methods.distance_histograms import DistanceHistograms, HistogramOptions
from adasd.methods.isotonic import never_rising_pava, running_minimum, without_gaps
from adasd.methods.kernel_density import Bandwidth, bandwidth, density
from adasd.methods.policy import RoundOutlook
from adasd.methods.scope import AcceptanceScope
from adasd.rounds import RelaxTable, RoundCompleted


class Priors(StrEnum):
    """pi_A and pi_R of Bayes' rule."""

    COUNTS = "counts"  # the shares of the two classes
    EQUAL = "equal"


class Monotone(StrEnum):
    """How the posterior is made to never rise with the distance."""

    RUNNING_MINIMUM = "running-minimum"
    PAVA = "pava"  # least-squares isotonic fit, weighted by the density of the distances


class Decision(StrEnum):
    """What becomes of P(A | d) (the two readings of the paper, docs/algorithm.md)."""

    MAP = "map"  # accept iff P >= 1/2
    STOCHASTIC = "stochastic"  # accept with probability P


@dataclass(frozen=True, slots=True)
class PosteriorOptions:
    """What the published text of component 2 leaves open (docs/algorithm.md); the defaults need no tuning."""

    decision: Decision = Decision.MAP
    priors: Priors = Priors.COUNTS
    bandwidth: Bandwidth = Bandwidth.SILVERMAN
    monotone: Monotone = Monotone.RUNNING_MINIMUM
    order: Order = Order.EXACT_FIRST
    laws: Laws = Laws.RAW
    scope: AcceptanceScope = AcceptanceScope.FROZEN
    refresh_labels: int = 32  # new labels between two fits
    evidence: HistogramOptions = field(default_factory=HistogramOptions)


@dataclass(frozen=True, slots=True)
class PosteriorState:
    evidence: DistanceHistograms = field(default_factory=DistanceHistograms)
    table: RelaxTable | None = None  # None: exact
    fitted_labels: int = 0  # labels that were known at the last fit
    frozen: bool = False


def posterior(evidence: DistanceHistograms, options: PosteriorOptions) -> NDArray[np.float64]:
    """P(A | d) at each bin's centre, never rising with d; 0 behind the last bin with any density.

    P = pi_A f_A / (pi_A f_A + pi_R f_R), f by kernel density. Needs warm evidence.
    """
    prior = evidence.weights.sum(axis=1) if options.priors is Priors.COUNTS else np.ones(2)
    joint_R, joint_A = (
        share * density(weights, bandwidth(weights, options.bandwidth))
        for share, weights in zip(prior / prior.sum(), evidence.weights, strict=True)
    )
    total = joint_R + joint_A
    known = total > 1e-9
    ratio = without_gaps(np.divide(joint_A, total, out=np.zeros_like(total), where=known), known)
    if options.monotone is Monotone.PAVA:
        return never_rising_pava(ratio, total + 1e-9)
    return running_minimum(ratio)


def fit(evidence: DistanceHistograms, options: PosteriorOptions) -> RelaxTable | None:
    """The table that travels to the target; None where nothing would be accepted by it."""
    if not evidence.warm(options.evidence):
        return None
    chance = posterior(evidence, options)
    if options.decision is Decision.MAP:
        chance = (chance >= 0.5).astype(np.float64)
    return RelaxTable(tuple(chance.tolist())) if chance.any() else None


@dataclass(frozen=True, slots=True)
class Posterior:
    """Accepts a token that failed the exact test where tokens at its distance mostly pass it."""

    options: PosteriorOptions = field(default_factory=PosteriorOptions)
    name: str = "posterior"
    summary: str = "accepts where the learned posterior of acceptance given the distance is at least 1/2"
    source: str = "AdaSD v2, arXiv:2512.11280v2"
    needs_distances: bool = True
    only_sampled: bool = False

    @property
    def processed(self) -> bool:
        return self.options.laws is Laws.PROCESSED

    @property
    def alone(self) -> bool:
        return self.options.order is Order.ALONE

    def start(self, shared: PosteriorState | None) -> PosteriorState:
        if shared is None or self.options.scope is AcceptanceScope.REQUEST:
            return PosteriorState()
        return replace(shared, frozen=self.options.scope is AcceptanceScope.FROZEN)

    def decide(self, state: PosteriorState, outlook: RoundOutlook) -> RelaxTable | None:
        return state.table

    def learn(self, state: PosteriorState, round: RoundCompleted) -> PosteriorState:
        if state.frozen:
            return state
        evidence = state.evidence.add(round, self.options.evidence)
        if evidence.num_labels - state.fitted_labels < self.options.refresh_labels:
            return replace(state, evidence=evidence)
        return PosteriorState(evidence, fit(evidence, self.options), evidence.num_labels)
