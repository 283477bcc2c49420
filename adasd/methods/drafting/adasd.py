"""AdaSD's first component: drafting stops at the mean entropy of rejected tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import ClassVar

from adasd.config import setting
from adasd.methods.policy import DraftingMethod, RoundOutlook
from adasd.methods.registry import register_drafting
from adasd.rounds import RoundCompleted, StopRule


@dataclass(frozen=True, slots=True)
class RunningMean:
    """Arithmetic mean of the first ``memory`` values, then an exponential mean of weight 1 / memory."""

    mean: float = 0.0
    count: int = 0  # number of values in the mean, at most ``memory``

    def add(self, value: float, memory: float = math.inf) -> RunningMean:
        count = self.count + 1 if self.count < memory else self.count
        return RunningMean(self.mean + (value - self.mean) / count, count)


class CeilingScope(StrEnum):
    """Whose rejections determine the ceiling."""

    REQUEST = "request"  # the request's own, shrunk towards the process's mean
    PROCESS = "process"  # all requests', with equal weight


@dataclass(frozen=True, slots=True)
class CeilingState:
    """Rejections of one request (or of the process), and the prior from earlier requests."""

    own: RunningMean = field(default_factory=RunningMean)  # nats
    prior: RunningMean = field(default_factory=RunningMean)  # the process's mean when the request began
    streak: int = 0  # blocks accepted in full past the ceiling since the last rejection or rise
    streak_max: float = 0.0  # nats; largest entropy that ended one of them
    floor: float = 0.0  # nats; the ceiling is at least this, until the next rejection


@register_drafting
@dataclass(frozen=True, slots=True)
class Adasd(DraftingMethod[CeilingState]):
    """T_G = mean entropy of the rejected tokens since the start (AdaSD, arXiv:2512.11280).

    A block has at most 20 tokens, as published, or fewer if the deployment's ``max_draft_tokens`` (16) says so.
    A round has at most one rejected token; later tokens had a wrong prefix. What the paper leaves open is a parameter.
    The mean alone has two traps. A ceiling of 0 would never change, since nothing is rejected: we start without a
    ceiling. And a low mean ends every block before anything can be rejected: so ``patience`` blocks in a row that
    ended above the ceiling and were accepted in full count as one observation, at the largest entropy that ended one
    of them, and keep the ceiling there until the next rejection.
    """

    initial_ceiling: float = setting(math.inf, "nats, until the first rejection; not published", low=0)
    scope: CeilingScope = setting(CeilingScope.REQUEST, "whose rejections make the ceiling; not published")
    shrinkage: int = setting(
        8, "kappa: the process's mean counts as at most so many rejections (scope request)", low=0
    )
    patience: int = setting(
        8, "blocks in a row accepted in full past the ceiling before it rises; 0 is never", low=0
    )
    memory: int = setting(1024, "rejections after which the oldest fade; the paper keeps all", low=1)
    drops_last: bool = setting(False, "the token that passes the ceiling is left out of the block")
    default_block: ClassVar[int | None] = 20
    name: ClassVar[str] = "adasd"
    summary: ClassVar[str] = "stops at the mean entropy of rejected tokens, learned online"
    source: ClassVar[str] = "AdaSD, arXiv:2512.11280"

    def start(self, shared: CeilingState | None) -> CeilingState:
        return CeilingState(prior=shared.own) if shared else CeilingState()

    def decide(self, state: CeilingState, outlook: RoundOutlook) -> StopRule:
        cap, drops = outlook.max_draft_tokens, self.drops_last
        return StopRule(cap, entropy_ceiling=self.ceiling(state), drops_last=drops)

    def ceiling(self, state: CeilingState) -> float:
        """T_G = (n_R T_req + kappa T_glob) / (n_R + kappa), in nats."""
        own, prior = state.own, state.prior
        by_process = self.scope is CeilingScope.PROCESS
        weight = prior.count if by_process else min(prior.count, self.shrinkage)
        total = own.count + weight
        mean = (own.count * own.mean + weight * prior.mean) / total if total else self.initial_ceiling
        return max(mean, state.floor)

    def learn(self, state: CeilingState, round: RoundCompleted) -> CeilingState:
        if (
            round.drafted is None
            or len(round.drafted.entropies) != round.num_drafted
            or not round.num_drafted
        ):
            return state  # nothing drafted, or the source has no distribution
        num_accepted = round.verdict.num_accepted
        if num_accepted < round.num_drafted:
            return self._rejected(state, round.drafted.entropies[num_accepted])
        return self._accepted(state, round.drafted.entropies[-1])

    def _rejected(self, state: CeilingState, entropy: float) -> CeilingState:
        if not math.isfinite(entropy):
            return state
        return CeilingState(own=state.own.add(entropy, self.memory), prior=state.prior)

    def _accepted(self, state: CeilingState, last_entropy: float) -> CeilingState:
        if not self.patience or not self.ceiling(state) < last_entropy < math.inf:
            return state  # something else ended the block, or the token past the ceiling was dropped: no evidence
        streak, largest = state.streak + 1, max(state.streak_max, last_entropy)
        if streak < self.patience:
            return replace(state, streak=streak, streak_max=largest)
        return CeilingState(own=state.own.add(largest, self.memory), prior=state.prior, floor=largest)
