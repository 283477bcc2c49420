"""The block length, 0 included, with the most expected tokens per millisecond."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

from adasd.config import setting
from adasd.methods.policy import DraftingMethod, RoundOutlook
from adasd.methods.registry import register_drafting
from adasd.rounds import RoundCompleted, StopRule


def rates(outlook: RoundOutlook) -> list[float]:
    """Expected tokens per millisecond for blocks of 0, 1, 2, ... tokens.

    A round yields 1 + S_1 + ... + S_k tokens in verdict(k) + k draft + hop. Raises ValueError until all times are
    measured.
    """
    tokens = accumulate(outlook.survival[: outlook.max_draft_tokens], initial=1.0)
    return [expected / round_ms(outlook, k) for k, expected in enumerate(tokens)]


def round_ms(outlook: RoundOutlook, length: float) -> float:
    """Wall time of a round with a block of ``length`` tokens (a mean is allowed); ValueError as ``rates``."""
    if outlook.draft_ms is None or outlook.hop_ms is None:
        raise ValueError("rates need measured times")
    drafting_ms = length * outlook.draft_ms + (outlook.hop_ms if length else 0.0)
    return max(1e-6, verdict_ms(outlook, length) + drafting_ms)


def verdict_ms(outlook: RoundOutlook, length: float) -> float:
    """Wall time of a verdict on ``length`` tokens.

    Alone on the target: from the line fitted to this pair's own verdicts. If B sessions share a pass, all are assumed
    to draft this length, so the pass has B (1 + length) tokens (SmartSpec's batch).
    """
    if outlook.verify_ms is None:
        raise ValueError("rates need measured times")
    if outlook.is_shared:
        pass_ms = outlook.cost.at(outlook.batch_size * (1 + length))
        if pass_ms is not None:
            return outlook.wait_ms + pass_ms
    return outlook.verify_ms + length * outlook.verify_ms_per_token


@dataclass(frozen=True, slots=True)
class GoodputState:
    """The current length, and the time since something was drafted."""

    length: int | None = None  # tokens; None before the first round
    idle_ms: float = 0.0  # wall time of rounds since the last drafted token
    block_ms: float = math.inf  # wall time of the last round that drafted


@register_drafting
@dataclass(frozen=True, slots=True)
class Goodput(DraftingMethod[GoodputState]):
    """argmax of ``rates``; another length must win by ``margin``, and at length 0 a probe is drafted now and then.

    Lengths follow measured times, so blocks differ from run to run.
    """

    initial: int = setting(5, "tokens, until times are measured", low=0)
    margin: float = setting(0.05, "relative gain that a change of length needs", low=0)
    probe_after: float = setting(
        50.0, "times what the last drafted round took, without drafting, then one probe", low=0
    )
    probe_after_ms: float = setting(
        1000.0, "milliseconds without drafting, then one probe at the latest", low=0
    )
    probe_length: int = setting(1, "tokens of a probe", low=1)
    name: ClassVar[str] = "goodput"
    summary: ClassVar[str] = (
        "the length with the most expected tokens per millisecond; 0 if drafting does not pay"
    )
    source: ClassVar[str] = "SmartSpec, arXiv:2406.14066, with acceptance by position and measured batches"

    def start(self, shared: GoodputState | None) -> GoodputState:
        return shared or GoodputState()

    def decide(self, state: GoodputState, outlook: RoundOutlook) -> StopRule:
        return StopRule(min(self._length(state, outlook), outlook.max_draft_tokens))

    def _length(self, state: GoodputState, outlook: RoundOutlook) -> int:
        if not outlook.has_times:
            return self.initial
        rate = rates(outlook)
        best = max(range(len(rate)), key=rate.__getitem__)
        if state.length is not None and state.length < len(rate):
            best = best if rate[best] > (1 + self.margin) * rate[state.length] else state.length
        return self.probe_length if best == 0 and self._probe_due(state) else best

    def _probe_due(self, state: GoodputState) -> bool:
        """Probes take about 2 % of the time at any speed; one second alone would be 5,000 tokens of a fast pair."""
        return state.idle_ms >= min(self.probe_after_ms, self.probe_after * state.block_ms)

    def learn(self, state: GoodputState, round: RoundCompleted) -> GoodputState:
        took_ms = round.draft_ms + round.verify_ms
        if not round.num_drafted:
            return GoodputState(0, state.idle_ms + took_ms, state.block_ms)
        if state.length == 0 and self._probe_due(state) and round.num_drafted == self.probe_length:
            return GoodputState(0, 0.0, took_ms)  # a probe keeps length 0 until another length wins
        return GoodputState(round.num_drafted, 0.0, took_ms)
