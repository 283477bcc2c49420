"""Estimates from rounds: means, times, acceptance by position. Pure values.

They do not depend on methods, and old rounds decay, so that a change of traffic shows within about 50 rounds. They are
named tuples since every round makes a dozen of them, twice: a dataclass takes twice the time.
"""

from __future__ import annotations

from itertools import accumulate
from operator import mul
from typing import NamedTuple

from adasd.cost_table import CostTable
from adasd.rounds import RoundCompleted

LONG_FADE = 0.99
"""Decay per value of a mean with a memory of 100 values."""
FADE = 0.98
"""Decay per round: a memory of 50 rounds."""
START, START_WEIGHT = 0.7, 2.0
"""Chance of acceptance assumed before any verdict, and its weight in verdicts."""
POOL_WEIGHT = 4.0
"""Weight of the mean over positions, in verdicts of one position."""
NEW_WEIGHT = 0.1
"""Weight of a new value in an exponential mean."""
CLIP, LONG_CLIP = 4.0, 10.0
"""A time counts as at most so many times the mean; the second is for means with a long memory."""
LEAST_MS = 0.05
"""Lower bound of the mean in this rule, so that it cannot stay at 0."""


class Survival(NamedTuple):
    """Chance S_k that a block's first k tokens are accepted, the product of conditional chances.

    Positions after a rejection or the block's end are not judged (censored), so each position's chance is estimated
    from the rounds that judged it, as in the Kaplan-Meier estimator; accepted / drafted would count unjudged tokens as
    failures. Positions with few verdicts are shrunk towards the mean of all positions. Assumes that a block's end is
    independent of the next token's acceptance; an entropy ceiling ends blocks where acceptance is unlikely, so S_k
    beyond that point is too high.
    """

    accepted: tuple[float, ...] = ()  # per position: decayed count of acceptances
    judged: tuple[float, ...] = ()  # per position: decayed count of verdicts

    def add(self, num_accepted: int, num_drafted: int) -> Survival:
        """One verdict on a block of ``num_drafted`` >= 1 tokens."""
        num_judged = min(num_accepted + 1, num_drafted)
        padding = (0.0,) * (num_judged - len(self.judged))
        return Survival(
            _faded(self.accepted + padding, num_accepted), _faded(self.judged + padding, num_judged)
        )

    def curve(self, length: int) -> tuple[float, ...]:
        """S_1 .. S_length; never rising."""
        pooled = (START * START_WEIGHT + sum(self.accepted)) / (START_WEIGHT + sum(self.judged))
        weighted = POOL_WEIGHT * pooled
        seen = zip(self.accepted[:length], self.judged[:length], strict=True)
        chances = [(accepted + weighted) / (judged + POOL_WEIGHT) for accepted, judged in seen]
        return tuple(accumulate(chances + [pooled] * (length - len(chances)), mul))


def _faded(counts: tuple[float, ...], num_new: int) -> tuple[float, ...]:
    """Counts by position after one more of each of the first ``num_new``."""
    more = [FADE * count + 1.0 for count in counts[:num_new]]
    return (*more, *[FADE * count for count in counts[num_new:]])


class Ema(NamedTuple):
    """Exponential mean; None until the first value."""

    value: float | None = None

    def add(self, value: float) -> Ema:
        return Ema(value if self.value is None else self.value + NEW_WEIGHT * (value - self.value))


class EmaOfTimes(NamedTuple):
    """Mean of milliseconds, robust to outliers: on a busy machine, a single value can be a hundred times too long.

    A value counts as at most CLIP times the mean, so a lasting change still shows within about ten values.
    """

    value: float | None = None

    def add(self, value: float) -> EmaOfTimes:
        if self.value is None:
            return EmaOfTimes(value)
        value = min(value, CLIP * max(self.value, LEAST_MS))
        return EmaOfTimes(self.value + NEW_WEIGHT * (value - self.value))


class SteadyMean(NamedTuple):
    """Mean of times that vary several-fold from one to the next; a memory of 100 values. None until the first value."""

    value: float | None = None
    n: float = 0.0

    def add(self, value: float) -> SteadyMean:
        n = LONG_FADE * self.n + 1
        if self.value is None:
            return SteadyMean(value, n)
        value = min(value, LONG_CLIP * max(self.value, LEAST_MS))
        return SteadyMean(self.value + (value - self.value) / n, n)


def added(means: tuple[SteadyMean, ...], place: int, value: float) -> tuple[SteadyMean, ...]:
    """The means after one more value of one of them."""
    means += (SteadyMean(),) * (place + 1 - len(means))
    return (*means[:place], means[place].add(value), *means[place + 1 :])


def load_of(num_running: int) -> int:
    """The class of a number of running requests: 0 for one, 1 for two to seven, 2 for 8 to 31, 3 for 32 to 127, ..."""
    return num_running.bit_length() // 2


class Line(NamedTuple):
    """Decayed least squares y = base + slope x, both kept >= 0; x is a count of tokens, y milliseconds."""

    n: float = 0.0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0

    def add(self, x: float, y: float) -> Line:
        return Line(
            FADE * self.n + 1,
            FADE * self.x + x,
            FADE * self.y + y,
            FADE * self.xx + x * x,
            FADE * self.xy + x * y,
        )

    def fit(self) -> tuple[float, float] | None:
        """(base, slope), or None without data; slope 0 while x never varied."""
        if self.n == 0:
            return None
        mean_x, mean_y = self.x / self.n, self.y / self.n
        variance = self.xx / self.n - mean_x**2
        slope = max(0.0, (self.xy / self.n - mean_x * mean_y) / variance) if variance > 1e-6 else 0.0
        if slope * mean_x > mean_y:  # through the origin
            slope = self.xy / self.xx
        return max(0.0, mean_y - slope * mean_x), slope


class Estimates(NamedTuple):
    """Measurements of one pair of models, independent of methods."""

    survival: Survival = Survival()
    draft_ms: EmaOfTimes = EmaOfTimes()  # compute per drafted token
    hop_ms: EmaOfTimes = EmaOfTimes()  # wall time of a block beyond its compute
    verify_ms: Line = Line()  # wall time of a verdict over the tokens of its block
    full: Ema = Ema()  # 1 for a block that was accepted in full, else 0
    foreseen: Ema = Ema()  # 1 for a rejection that the draft predicted, else 0
    length: Ema = Ema()  # tokens per block
    cost: CostTable = CostTable()  # the target's passes by their tokens of all sessions
    batch_size: Ema = Ema()  # sessions in the pass of a verdict
    wait_ms: Ema = Ema()  # wall time of a verdict beyond its passes
    queue_ms: Ema = Ema()  # the part of wait_ms spent in the worker's queue
    pass_ms: Line = Line()  # the target's passes over the tokens of this pair's block
    plain_round_ms: tuple[SteadyMean, ...] = ()  # between verdicts in continuous plain decoding, by load
    block_extra_ms: EmaOfTimes = EmaOfTimes()  # of a round with a block, beyond draft and target
    exposed: Ema = Ema()  # share of a block's drafting that its round waited for

    def with_target(self, other: Estimates) -> Estimates:
        """These estimates, with the target's times of ``other``."""
        if self.pass_ms is other.pass_ms:  # every round makes a new one, and the others with it
            return self
        return self._replace(
            verify_ms=other.verify_ms,
            pass_ms=other.pass_ms,
            plain_round_ms=other.plain_round_ms,
            cost=other.cost,
            batch_size=other.batch_size,
            wait_ms=other.wait_ms,
            queue_ms=other.queue_ms,
        )

    def plain_ms(self, load: int = 0) -> float | None:
        """Wall time of a token in plain decoding under this load (``load_of``); None until measured.

        Where the target takes early calls, it decodes on while its verdicts travel, so a token includes no network
        hop. Rounds that had to wait for their hop (the first after a block) do not count. Until there is another plain
        round, a pass over one token and the wait for it.
        """
        if load < len(self.plain_round_ms) and (ms := self.plain_round_ms[load].value) is not None:
            return ms
        fitted = self.pass_ms.fit()
        return fitted[0] + (self.queue_ms.value or 0.0) if fitted else None

    def learn(self, round: RoundCompleted, load: int = 0) -> Estimates:
        """The estimates after one more round; a single construction, since this runs every round."""
        drafted, verdict, num = round.drafted, round.verdict, round.num_drafted
        wait_ms = max(0.0, round.verify_ms - verdict.compute_ms)
        plain, tells_batch, has_block = num == 0, verdict.batch_tokens > 0, drafted is not None and num > 0
        draft_ms = drafted.compute_ms if drafted is not None else 0.0
        is_continuous = plain and round.asked_early is not False
        hides_hop = plain and round.asked_early is True
        return Estimates(
            survival=self.survival.add(verdict.num_accepted, num) if has_block else self.survival,
            draft_ms=self.draft_ms.add(draft_ms / num) if has_block else self.draft_ms,
            hop_ms=self.hop_ms.add(max(0.0, round.draft_ms - draft_ms)) if has_block else self.hop_ms,
            verify_ms=self.verify_ms if hides_hop else self.verify_ms.add(num, round.verify_ms),
            full=self.full.add(float(verdict.num_accepted == num)) if has_block else self.full,
            foreseen=self.foreseen if round.foreseen is None else self.foreseen.add(float(round.foreseen)),
            length=self.length.add(float(num)) if has_block else self.length,
            cost=self.cost.add(verdict.batch_tokens, verdict.compute_ms) if tells_batch else self.cost,
            batch_size=self.batch_size.add(float(verdict.batch_size)) if tells_batch else self.batch_size,
            wait_ms=self.wait_ms.add(wait_ms),
            queue_ms=self.queue_ms.add(verdict.queue_ms),
            pass_ms=self.pass_ms.add(num, verdict.compute_ms),
            plain_round_ms=added(self.plain_round_ms, load, round.verify_ms + round.overhead_ms)
            if is_continuous
            else self.plain_round_ms,
            block_extra_ms=self.block_extra_ms.add(round.overhead_ms) if has_block else self.block_extra_ms,
            exposed=self.exposed.add(min(1.0, round.draft_ms / max(draft_ms, 1e-6)))
            if has_block
            else self.exposed,
        )
