"""``calibrated``: draft one more token while its expected gain is above its price.

Ours. A drafted token's expected gain is the chance that it is accepted, which is estimated from the draft's entropy.
Entropies are sorted into bins b (``ENTROPY_EDGES``). Judged tokens give a_b, the share accepted in bin b, and M, how
often a token of bin b was followed by one of bin c. With S_k, the product of a over the k tokens drafted so far, the
next token is accepted with chance S_k (M a)_b, and drafting continues while

    S_k (M a)_b > price.

The price is chosen too: for each price of a grid, M and a give the tokens that a round would yield and draft, and
measured times give its duration; the price with the most tokens per millisecond is used. If plain decoding yields
more, the round drafts nothing; a single token is then drafted from time to time, for 1 % of the time.

If the entropy carries no information, this is the fixed length of highest goodput (SmartSpec, arXiv:2406.14066); if
the entropy decides acceptance, it is AdaSD's and AdaEDL's ceiling with a price. It reads the draft's distributions,
never a drafted token, so the exact tests stay exact. Shape letters: B bins, C = B + 1 rows of M (the last one for the
first token of a block), G prices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from adasd.config import setting
from adasd.methods.policy import DraftingMethod, RoundOutlook
from adasd.methods.registry import register_drafting
from adasd.rounds import ENTROPY_EDGES, ChanceTable, RoundCompleted, StopRule
from adasd.stop_rule import entropy_bin

Array = NDArray[np.float64]

NUM_BINS = len(ENTROPY_EDGES) + 1
FIRST = NUM_BINS  # row of M for the first token of a block
PRICES: tuple[float, ...] = tuple(np.geomspace(0.02, 0.98, 24).tolist())
_PRICES_G1: Array = np.array(PRICES)[:, None]
_SHAPE_2GB = (2, len(PRICES), NUM_BINS)
MARGIN = 0.03
"""Drafting continues unless plain decoding is expected to yield more by this share: estimates are noisy."""
LONGEST = 16
"""Longest block in forecasts, in tokens."""
MOST_NEW = 64
"""Verdicts after which a forecast is made anew in any case: they are kept until then, and copied with the state."""


@dataclass(frozen=True, slots=True, eq=False)
class Forecast:
    """Chances by bin (a ChanceTable without its price), and a round's expected yield under each price."""

    chances: tuple[float, ...]
    next_chances: tuple[float, ...]
    gain_G: Array  # accepted tokens per round
    drafted_G: Array  # drafted tokens per round


@dataclass(frozen=True, slots=True)
class Priors:
    """Assumptions before there are verdicts."""

    chance: float = 0.7  # of acceptance
    weight: float = 2.0  # of ``chance``, in judged tokens
    pool_weight: float = 4.0  # of the mean over all bins, in judged tokens of each bin
    move_weight: float = 2.0  # of the mean over all rows of M, in moves of each row


class Judged(NamedTuple):
    """One verdict on a block: the bins of the judged tokens, of which the first ``num_accepted`` were accepted."""

    bins: tuple[int, ...]
    num_accepted: int


@dataclass(frozen=True, eq=False)
class Counts:
    """Decayed counts of judged tokens; the forecast is computed on first use."""

    accepted_B: Array
    judged_B: Array
    moves_CB: Array
    priors: Priors

    @classmethod
    def none(cls, priors: Priors) -> Counts:
        return cls(np.zeros(NUM_BINS), np.zeros(NUM_BINS), np.zeros((NUM_BINS + 1, NUM_BINS)), priors)

    def plus(self, verdicts: Sequence[Judged], fade: float) -> Counts:
        """The counts after these verdicts, the oldest first."""
        bins, before, judged, accepted = list[int](), list[int](), list[float](), list[float]()
        for age, verdict in enumerate(reversed(verdicts)):
            num, weight = len(verdict.bins), fade**age
            bins += verdict.bins
            before += (FIRST, *verdict.bins[:-1])
            judged += [weight] * num
            accepted += [weight] * verdict.num_accepted + [0.0] * (num - verdict.num_accepted)
        moves = NUM_BINS * np.array(before) + bins
        left = fade ** len(verdicts)
        return Counts(
            left * self.accepted_B + np.bincount(bins, accepted, NUM_BINS),
            left * self.judged_B + np.bincount(bins, judged, NUM_BINS),
            left * self.moves_CB + np.bincount(moves, judged, self.moves_CB.size).reshape(-1, NUM_BINS),
            self.priors,
        )

    @cached_property
    def forecast(self) -> Forecast:
        priors = self.priors
        num_accepted, num_judged = self.accepted_B.sum(), self.judged_B.sum()
        mean = (num_accepted + priors.chance * priors.weight) / (num_judged + priors.weight)
        chance_B = (self.accepted_B + priors.pool_weight * mean) / (self.judged_B + priors.pool_weight)
        share_B = self.moves_CB.sum(axis=0) + 1 / NUM_BINS
        moves_CB = self.moves_CB + priors.move_weight * share_B / share_B.sum()
        moves_CB /= moves_CB.sum(axis=1, keepdims=True)
        next_chance_C = moves_CB @ chance_B
        gain_G, drafted_G = _rounds(chance_B, next_chance_C, moves_CB)
        return Forecast(tuple(chance_B.tolist()), tuple(next_chance_C[:FIRST].tolist()), gain_G, drafted_G)


class CalibratedState(NamedTuple):
    """The counts that the forecast is computed from, and the verdicts since then."""

    believed: Counts
    new: tuple[Judged, ...] = ()  # verdicts that ``believed`` lacks
    num_new: int = 0  # their judged tokens
    total: float = 0.0  # judged tokens in all, decayed
    waited: int = 0  # plain rounds since the last block


@register_drafting
@dataclass(frozen=True, slots=True)
class Calibrated(DraftingMethod[CalibratedState]):
    """Parameters are counts and shares; none is tuned to a pair of models."""

    initial: int = setting(2, "tokens per block until times are measured", low=1)
    fade: float = setting(
        0.995, "of all counts, per round with a block: a memory of 200 rounds", low=0, high=1
    )
    refresh: float = setting(
        0.1, "new tokens, as a share of all counted, from which on forecasts are anew", low=0
    )
    probing: float = setting(
        0.01, "share of the time that trials may take while drafting does not pay", low=0.0001
    )
    enough: float = setting(4.0, "judged tokens from which on their verdict is believed", low=1)
    longest_wait: float = setting(256.0, "plain rounds between two trials", low=1)
    name: ClassVar[str] = "calibrated"
    summary: ClassVar[str] = (
        "drafts on while the next token's chance, by the draft's entropy, is above its price"
    )
    source: ClassVar[str] = "this project, docs/calibrated.md"

    def start(self, shared: CalibratedState | None) -> CalibratedState:
        return shared or CalibratedState(Counts.none(Priors()))

    def decide(self, state: CalibratedState, outlook: RoundOutlook) -> StopRule:
        cap = outlook.max_draft_tokens
        if not outlook.has_times:
            return StopRule(min(self.initial, cap))
        forecast = state.believed.forecast
        best, pays = self._best(forecast, outlook)
        if outlook.may_bypass and not pays:
            one_token_now = state.waited >= self._wait(state, outlook)  # a trial: does drafting pay again?
            return StopRule(int(one_token_now))
        return StopRule(cap, table=ChanceTable(forecast.chances, forecast.next_chances, PRICES[best]))

    @staticmethod
    def _best(forecast: Forecast, outlook: RoundOutlook) -> tuple[int, bool]:
        """Index of the price with the most tokens per millisecond, and whether it beats plain decoding (MARGIN)."""
        draft_ms, hop_ms, verify_ms = outlook.draft_ms or 0.0, outlook.hop_ms or 0.0, outlook.verify_ms or 0.0
        token_ms = outlook.exposed * draft_ms + outlook.verify_ms_per_token
        ms_G = verify_ms + hop_ms + forecast.drafted_G * token_ms
        rate_G = (1 + forecast.gain_G) / np.maximum(ms_G, 1e-6)
        best = int(rate_G.argmax())
        return best, bool(rate_G[best] * (outlook.plain_ms or verify_ms) > 1 - MARGIN)

    def learn(self, state: CalibratedState, round: RoundCompleted) -> CalibratedState:
        drafted, verdict = round.drafted, round.verdict
        if not round.num_drafted:
            return state._replace(waited=state.waited + 1)
        if drafted is None or len(drafted.entropies) != round.num_drafted:
            return state  # the source has no distribution
        num_judged = min(verdict.num_accepted + 1, round.num_drafted)
        bins = tuple([entropy_bin(entropy) for entropy in drafted.entropies[:num_judged]])
        new, num_new = (*state.new, Judged(bins, verdict.num_accepted)), state.num_new + num_judged
        total = self.fade * state.total + num_judged
        if num_new >= self.refresh * total or len(new) == MOST_NEW:
            return CalibratedState(state.believed.plus(new, self.fade), total=total)
        return CalibratedState(state.believed, new, num_new, total)

    def _wait(self, state: CalibratedState, outlook: RoundOutlook) -> float:
        """Plain rounds between two trials, which may take the share ``probing`` of the time, more with little data."""
        lost_ms = (outlook.draft_ms or 0.0) + outlook.verify_ms_per_token + (outlook.hop_ms or 0.0)
        rounds = lost_ms / (self.probing * max(outlook.plain_ms or 0.0, 1e-6))
        return min(rounds, self.longest_wait) * min(1.0, state.total / self.enough)


def _rounds(chance_B: Array, next_chance_C: Array, moves_CB: Array) -> tuple[Array, Array]:
    """Expected accepted and drafted tokens per round for every price, by the Markov chain of bins; drafts at least one.

    ``reach_GB`` is the chance that a block has a k-th token and it is of bin b, ``stand_GB`` the chance that it is
    also accepted with all tokens before it. S_k is approximated by its mean over those blocks. Both are one array, as
    the arrays are so small that the number of operations counts.
    """
    first_B = moves_CB[FIRST]
    chances_2GB = np.stack((first_B, first_B * chance_B)).repeat(len(PRICES), axis=0).reshape(_SHAPE_2GB)
    going_on_2GB = np.zeros(_SHAPE_2GB)  # sums over k, of the blocks that have a token after the k-th
    inner_BB, next_B = moves_CB[:FIRST], next_chance_C[:FIRST]
    for _ in range(1, LONGEST):
        reach_GB, stand_GB = chances_2GB
        goes_on_GB = stand_GB * next_B > _PRICES_G1 * reach_GB
        chances_2GB *= goes_on_GB
        going_on_2GB += chances_2GB
        chances_2GB = chances_2GB @ inner_BB
        chances_2GB[1] *= chance_B
    reached_GB, stood_GB = going_on_2GB
    return first_B @ chance_B + stood_GB @ next_B, 1 + reached_GB.sum(axis=1)
