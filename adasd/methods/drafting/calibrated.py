"""``calibrated``: draft one more token while its expected gain is above its price.

Ours. A drafted token's expected gain is the chance that it is accepted, which is estimated from the draft's entropy.
Entropies are sorted into bins b (``ENTROPY_EDGES``). Judged tokens give a_b, the share accepted in bin b, and M, how
often a token of bin b was followed by one of bin c. With S_k, the product of a over the k tokens drafted so far, the
next token is accepted with chance S_k (M a)_b, and drafting continues while

    S_k (M a)_b > price.

The price is chosen too, and with it the longest block: for each price of a grid and each length, M and a give the
tokens that a round would yield and draft, and measured times give its duration, with the curve of the target's passes
by their tokens; the pair with the most tokens per millisecond is used. If plain decoding yields more, the round drafts
nothing; a single token is then drafted from time to time, for 1 % of the time.

The forecast is guarded by what happened: recent blocks show what the same blocks, cut shorter, would have yielded. If
a cut is better by 3 % beyond the noise, blocks are cut there.

If the entropy carries no information, this is the fixed length of highest goodput (SmartSpec, arXiv:2406.14066); if
the entropy decides acceptance, it is AdaSD's and AdaEDL's ceiling with a price. It reads the draft's distributions,
never a drafted token, so the exact tests stay exact. Shape letters: B bins, C = B + 1 rows of M (the last one for the
first token of a block), G prices, K longest blocks (entry k - 1 is for k tokens).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import log
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
"""Drafting continues unless plain decoding is expected to yield more by this share: estimates are noisy. A cut
must be better by it, too."""
LONGEST = 16
"""Longest block in forecasts, in tokens."""
_SIZES = LONGEST + 1
_ACCEPTED_FROM = (NUM_BINS + 1) * NUM_BINS
_BLOCKS_FROM = _ACCEPTED_FROM + NUM_BINS
_EMITTED_L: Array = np.arange(1.0, _SIZES + 1)  # by accepted tokens, with the target's own
_CUT_KL = np.minimum(np.arange(_SIZES)[None], np.arange(1, _SIZES)[:, None])  # length after a cut at k
_ACCEPTED_BEYOND_KLL: Array = (np.arange(1.0 * _SIZES) - _CUT_KL)[:, None, :]
ERRORS = 3.0
"""Standard errors by which a cut must have been better than the blocks as they were."""
GRID = 50.0
"""Steps per factor e of the times that a choice is remembered for: they may differ by 2 %."""
MOST_NEW = 64
"""Verdicts after which a forecast is made anew in any case: they are kept until then, and copied with the state."""


class Choice(NamedTuple):
    """The rule for some times."""

    table: ChanceTable
    longest: int  # tokens of a block
    pays: bool  # whether it beats plain decoding (MARGIN)


@dataclass(frozen=True, slots=True, eq=False)
class Forecast:
    """Chances by bin (a ChanceTable without its price), and a round's expected yield under each price and length."""

    chances: tuple[float, ...]
    next_chances: tuple[float, ...]
    gain_KG: Array  # accepted tokens per round
    drafted_KG: Array  # drafted tokens per round
    choices: dict[tuple[int, int, bool], Choice] = field(default_factory=dict)
    """Made so far, by times (``_choice``); the curve is that of the first of them."""


class Judged(NamedTuple):
    """One verdict on a block: the bins of the judged tokens, of which the first ``num_accepted`` were accepted."""

    bins: tuple[int, ...]
    num_accepted: int
    num_drafted: int


@dataclass(frozen=True, slots=True)
class Priors:
    """Assumptions before there are verdicts."""

    chance: float = 0.7  # of acceptance
    weight: float = 2.0  # of ``chance``, in judged tokens
    pool_weight: float = 4.0  # of the mean over all bins, in judged tokens of each bin
    move_weight: float = 2.0  # of the mean over all rows of M, in moves of each row


@dataclass(frozen=True, eq=False)
class Counts:
    """Decayed counts of judged tokens and of blocks; the forecast is computed on first use.

    They lie in one array, so that verdicts are added in one step; the properties are views of it.
    """

    all_N: Array
    priors: Priors

    @classmethod
    def none(cls, priors: Priors) -> Counts:
        return cls(np.zeros(_BLOCKS_FROM + _SIZES**2), priors)

    @property
    def moves_CB(self) -> Array:
        """Judged tokens by the bin of the token before them and their own."""
        return self.all_N[:_ACCEPTED_FROM].reshape(-1, NUM_BINS)

    @property
    def accepted_B(self) -> Array:
        """Accepted tokens by bin."""
        return self.all_N[_ACCEPTED_FROM:_BLOCKS_FROM]

    @property
    def blocks_LL(self) -> Array:
        """Blocks by their drafted tokens (at most LONGEST) and their accepted tokens."""
        return self.all_N[_BLOCKS_FROM:].reshape(_SIZES, _SIZES)

    def plus(self, verdicts: Sequence[Judged], fade: float) -> Counts:
        """The counts after these verdicts, the oldest first."""
        places, weights = list[int](), list[float]()
        for age, (bins, num_accepted, num_drafted) in enumerate(reversed(verdicts)):
            before = (FIRST, *bins[:-1])
            places += [NUM_BINS * row + bin for row, bin in zip(before, bins, strict=True)]
            places += [_ACCEPTED_FROM + bin for bin in bins[:num_accepted]]
            places.append(_BLOCKS_FROM + _SIZES * min(num_drafted, LONGEST) + min(num_accepted, LONGEST))
            weights += [fade**age] * (len(places) - len(weights))
        more_N = np.bincount(places, weights, self.all_N.size)
        return Counts(fade ** len(verdicts) * self.all_N + more_N, self.priors)

    @cached_property
    def forecast(self) -> Forecast:
        priors, accepted_B, moves_CB = self.priors, self.accepted_B, self.moves_CB
        judged_B = moves_CB.sum(axis=0)
        mean = (accepted_B.sum() + priors.chance * priors.weight) / (judged_B.sum() + priors.weight)
        chance_B = (accepted_B + priors.pool_weight * mean) / (judged_B + priors.pool_weight)
        share_B = judged_B + 1 / NUM_BINS
        moves_CB = moves_CB + priors.move_weight * share_B / share_B.sum()
        moves_CB /= moves_CB.sum(axis=1, keepdims=True)
        next_chance_C = moves_CB @ chance_B
        gain_KG, drafted_KG = _rounds(chance_B, next_chance_C, moves_CB)
        return Forecast(tuple(chance_B.tolist()), tuple(next_chance_C[:FIRST].tolist()), gain_KG, drafted_KG)

    def cut(self, cost_L: Array) -> int:
        """The length at which recent blocks should have been cut, by what 0 to LONGEST drafted tokens cost, in tokens.

        A block shows what it would have yielded with fewer tokens, whatever its entropies said. LONGEST unless a cut
        is better by MARGIN of all tokens and by ERRORS.
        """
        saved_KLL = (cost_L - cost_L[_CUT_KL])[:, :, None] - _ACCEPTED_BEYOND_KLL  # tokens per block
        saved_K = (self.blocks_LL * saved_KLL).sum(axis=(1, 2))
        error_K = np.sqrt((self.blocks_LL * saved_KLL**2).sum(axis=(1, 2)))
        place = int((saved_K - ERRORS * error_K).argmax())
        tokens = float((self.blocks_LL * _EMITTED_L).sum())
        is_shown = saved_K[place] > max(MARGIN * tokens, ERRORS * error_K[place])
        return place + 1 if is_shown else LONGEST


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
        0.2, "new tokens, as a share of all counted, from which on forecasts are anew", low=0
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
        choice = self._choice(state.believed, outlook)
        if outlook.may_bypass and not choice.pays:
            one_token_now = state.waited >= self._wait(state, outlook)  # a trial: does drafting pay again?
            return StopRule(int(one_token_now))
        return StopRule(min(cap, choice.longest), table=choice.table)

    @staticmethod
    def _choice(believed: Counts, outlook: RoundOutlook) -> Choice:
        """Price and longest block with the most tokens per millisecond; remembered for like times."""
        forecast, verify_ms = believed.forecast, outlook.verify_ms or 0.0
        round_ms = max(verify_ms + (outlook.hop_ms or 0.0), 1e-6)
        token_ms = outlook.exposed * (outlook.draft_ms or 0.0) + outlook.verify_ms_per_token
        plain_ms = outlook.plain_ms or verify_ms
        token, plain = (round(GRID * log(max(ms / round_ms, 1e-6))) for ms in (token_ms, plain_ms))
        key = token, plain, outlook.is_shared
        known = forecast.choices.get(key)
        if known is not None:
            return known
        block_ms_L = token_ms * np.arange(_SIZES) + _bends_L(outlook)
        going_on_KG = np.diff(forecast.drafted_KG, axis=0, prepend=0.0)  # P(a block has a k-th token)
        ms_KG = round_ms + block_ms_L[0] + np.cumsum(going_on_KG * np.diff(block_ms_L)[:, None], axis=0)
        rate_KG = (1 + forecast.gain_KG) / np.maximum(ms_KG, 1e-6)
        longest, price = divmod(int(rate_KG.argmax()), len(PRICES))
        best = float(rate_KG[longest, price])
        table = ChanceTable(forecast.chances, forecast.next_chances, PRICES[price])
        longest = min(longest + 1, believed.cut(best * block_ms_L))
        choice = Choice(table, longest, best * plain_ms > 1 - MARGIN)
        forecast.choices[key] = choice
        return choice

    def learn(self, state: CalibratedState, round: RoundCompleted) -> CalibratedState:
        drafted, verdict = round.drafted, round.verdict
        if not round.num_drafted:
            return state._replace(waited=state.waited + 1)
        if drafted is None or len(drafted.entropies) != round.num_drafted:
            return state  # the source has no distribution
        num_judged = min(verdict.num_accepted + 1, round.num_drafted)
        bins = tuple([entropy_bin(entropy) for entropy in drafted.entropies[:num_judged]])
        new, num_new = (
            (*state.new, Judged(bins, verdict.num_accepted, round.num_drafted)),
            state.num_new + num_judged,
        )
        total = self.fade * state.total + num_judged
        if num_new >= self.refresh * total or len(new) == MOST_NEW:
            return CalibratedState(state.believed.plus(new, self.fade), total=total)
        return CalibratedState(state.believed, new, num_new, total)

    def _wait(self, state: CalibratedState, outlook: RoundOutlook) -> float:
        """Plain rounds between two trials, which may take the share ``probing`` of the time, more with little data."""
        lost_ms = (outlook.draft_ms or 0.0) + outlook.verify_ms_per_token + (outlook.hop_ms or 0.0)
        rounds = lost_ms / (self.probing * max(outlook.plain_ms or 0.0, 1e-6))
        return min(rounds, self.longest_wait) * min(1.0, state.total / self.enough)


def _bends_L(outlook: RoundOutlook) -> Array:
    """Milliseconds beyond a line of a pass over a block of 0 to LONGEST tokens.

    0 if unknown, and in a pass that others share, whose curve says nothing of this block alone.
    """
    bends = [] if outlook.is_shared else outlook.cost.bends(_SIZES)
    return np.array(bends or [0.0] * _SIZES)


def _rounds(chance_B: Array, next_chance_C: Array, moves_CB: Array) -> tuple[Array, Array]:
    """Expected accepted and drafted tokens per round for every longest block and price, by the Markov chain of bins.

    At least one token is drafted. ``reach_GB`` is the chance that a block has a k-th token and it is of bin b,
    ``stand_GB`` the chance that it is also accepted with all tokens before it. S_k is approximated by its mean over
    those blocks. Both are one array, as the arrays are so small that the number of operations counts.
    """
    first_B, inner_BB, next_B = moves_CB[FIRST], moves_CB[:FIRST], next_chance_C[:FIRST]
    steps_2BB = np.stack((inner_BB, inner_BB * chance_B))
    least_GB = _PRICES_G1 / next_B  # stand / reach above which a token is worth its price
    chances_2GB = np.stack((first_B, first_B * chance_B)).repeat(len(PRICES), axis=0).reshape(_SHAPE_2GB)
    going_on_K2GB = np.zeros((LONGEST, *_SHAPE_2GB))  # of the blocks that have a token after the k-th
    for k in range(1, LONGEST):
        goes_on_GB = chances_2GB[1] > least_GB * chances_2GB[0]
        chances_2GB = np.multiply(chances_2GB, goes_on_GB, out=going_on_K2GB[k]) @ steps_2BB
    drafted_KG, gain_KG = going_on_K2GB[:, 0].sum(axis=2), going_on_K2GB[:, 1] @ next_B
    drafted_KG[0], gain_KG[0] = 1.0, first_B @ chance_B
    return gain_KG.cumsum(axis=0), drafted_KG.cumsum(axis=0)
