"""Acceptance by what the target itself thinks of the drafted token: our own rule."""

from __future__ import annotations

from dataclasses import dataclass

from adasd.methods.policy import RoundOutlook
from adasd.rounds import RelaxOwnLaw, RoundCompleted


@dataclass(frozen=True, slots=True)
class Collision:
    """Accept iff p(x) >= c * sum p^2: at most log(1/c) nats more surprising than the target's own sample.

    ``sum p^2`` is the probability that the target expects to give its own sample, so c = 1 asks for a token
    that is as likely as those which the target itself would have chosen, on average. c is no number to tune:
    it stands at 1/2 (one bit) while the request has spent less than half of what it allows to be relaxed, and
    follows the spent share from there up to 1, so that what is left of the budget goes to the likeliest
    tokens. It depends on the request's own tokens and on nothing else. Derivation: docs/collision.md.
    """

    start_ratio: float = 0.5  # c of a fresh budget
    name: str = "collision"
    summary: str = "accepts what the target likes at least half as much as its own samples, stricter with use"
    source: str = "this project, docs/collision.md"
    needs_distances: bool = False
    only_sampled: bool = False
    processed: bool = False
    alone: bool = False

    def start(self, shared: None) -> None:
        return None

    def decide(self, state: None, outlook: RoundOutlook) -> RelaxOwnLaw | None:
        allowed = outlook.max_relaxed_fraction * (outlook.num_emitted + outlook.max_draft_tokens)
        if allowed == 0:
            return None
        spent = min(1.0, outlook.num_relaxed / allowed)
        return RelaxOwnLaw(max(self.start_ratio, spent))

    def learn(self, state: None, round: RoundCompleted) -> None:
        return None
