"""The slow, obvious twin of ``verify`` for one session: plain Python, double precision, same random inputs.

It shares no arithmetic with the tensor code: transform, noise, distance and rules are written out once more. Tests
hold the two against each other, and the fake engine (adasd.testing) judges with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from adasd.rounds import (
    AcceptRule,
    RelaxBelow,
    RelaxDivergence,
    RelaxOwnLaw,
    RelaxTable,
    RelaxTolerance,
    SamplingTransform,
    Yardstick,
)
from adasd.specdec.dice import Dice

Law = list[float]
"""Probabilities by token id."""


@dataclass(frozen=True, slots=True)
class ReferenceJudgement:
    """As ``verify.Judgement`` for one session, judged positions only."""

    num_accepted: int
    next_token: int
    relaxed: tuple[bool, ...]
    exact_ok: tuple[bool, ...]
    distances: tuple[float, ...]  # empty if the session sent no rows
    distortion: float = 0.0


@dataclass(frozen=True, slots=True)
class Place:
    """One drafted token in front of both laws."""

    token: int
    logits: Sequence[float]  # the target's, masked
    target: Law  # what the target would sample from
    draft: Law | None  # what the draft sampled from; None without rows
    distance: float  # nan without rows

    @property
    def plain(self) -> Law:
        """The target's law after masks at temperature 1."""
        return softmax(self.logits)

    @property
    def excess(self) -> Law:
        """(q - p)+ of what the target may emit."""
        assert self.draft is not None
        return [max(0.0, q - p) if p > 0 else 0.0 for p, q in zip(self.target, self.draft, strict=True)]


def judge_one(
    masked_logits: Sequence[Sequence[float]],
    block: Sequence[int],
    row_ids: Sequence[Sequence[int]] | None,
    row_logprobs: Sequence[Sequence[float]] | None,
    transform: SamplingTransform,
    base_len: int,
    rule: AcceptRule,
    dice: Dice,
) -> ReferenceJudgement:
    """Judge one block token by token; ``masked_logits`` has one row more than ``block`` has tokens."""
    places = []
    for i, token in enumerate(block):
        distance, draft = math.nan, None
        if row_ids is not None and row_logprobs is not None:
            draft = spread(row_ids[i], law(row_logprobs[i], transform), len(masked_logits[i]))
            distance = (
                whole_distance(law(masked_logits[i], transform), draft)
                if rule.processed
                else bucket_distance(softmax(masked_logits[i]), row_ids[i], row_logprobs[i])
            )
        places.append(Place(token, masked_logits[i], law(masked_logits[i], transform), draft, distance))
    behind = law(masked_logits[-1], transform)
    if rule.whole_block:
        return judge_whole(places, behind, dice)

    def after(at: int) -> int:
        """The target's own token behind ``at`` accepted ones."""
        if transform.greedy:
            return first_max(masked_logits[at])
        if transform.seed is not None:
            return coupled_choice(law(masked_logits[at], transform), transform.seed, base_len + at)
        return dice.pick(behind)

    relaxed: list[bool] = []
    exact_ok: list[bool] = []
    distortion, tv_left = 0.0, rule.max_distortion
    for i, place in enumerate(places):
        sampled = not transform.greedy and transform.seed is None
        if sampled:
            assert place.draft is not None
            ok = dice.below(i, ratio(place.target[place.token], place.draft[place.token]))
        else:
            ok = place.token == after(i)
        allowed = place.logits[place.token] > -math.inf if transform.greedy else place.target[place.token] > 0
        wills = (rule.alone or not ok) and allowed and willing(rule, place, i, dice)
        would = wills and not ok
        cost = offer_cost(rule, place) if sampled else float(would)
        offered = rule.relax is not None and sum(relaxed) < rule.relax_budget and cost <= tv_left
        distortion, tv_left = distortion + cost * offered, tv_left - cost * offered
        exact_ok.append(ok)
        relaxed.append(would and offered)
        alone = rule.alone and offered
        if not (wills if alone else ok or relaxed[-1]):
            if not sampled:
                next_token = after(i)
            elif alone:
                next_token = dice.pick(place.target)
            else:
                next_token = dice.pick(residual(rule if offered else AcceptRule(), place))
            return ReferenceJudgement(
                i, next_token, tuple(relaxed[:-1]), tuple(exact_ok), distances(places[: i + 1]), distortion
            )
    return ReferenceJudgement(
        len(block), after(len(block)), tuple(relaxed), tuple(exact_ok), distances(places), distortion
    )


def judge_whole(places: Sequence[Place], behind: Law, dice: Dice) -> ReferenceJudgement:
    """Block verification (arXiv:2403.10444): every prefix has its chance, the longest that stands is kept."""
    weights = [1.0]
    for place in places:
        assert place.draft is not None
        weights.append(min(1.0, weights[-1] * ratio(place.target[place.token], place.draft[place.token])))
    kept = 0
    for i in range(1, len(places) + 1):
        chance = weights[i]
        if i < len(places):
            excess = sum(excess_of(weights[i], places[i]))
            total = excess + 1 - weights[i]
            chance = excess / total if total > 0 else 1.0
        if dice.below(i - 1, chance):
            kept = i
    exact_ok = (True,) * kept + (False,) * (kept < len(places))
    weighed = residual_of(weights[kept], places[kept]) if kept < len(places) else behind
    next_token = dice.pick(weighed)
    return ReferenceJudgement(kept, next_token, (False,) * kept, exact_ok, distances(places[: kept + 1]))


def excess_of(weight: float, place: Place) -> Law:
    """max(0, weight p - q)."""
    assert place.draft is not None
    return [max(0.0, weight * p - q) for p, q in zip(place.target, place.draft, strict=True)]


def residual_of(weight: float, place: Place) -> Law:
    """What a rejected token is replaced from; p itself if rounding leaves nothing."""
    left = excess_of(weight, place)
    return left if sum(left) > 0 else place.target


def residual(rule: AcceptRule, place: Place) -> Law:
    """What a rejected token is replaced from, not normalised."""
    if isinstance(rule.relax, RelaxDivergence):
        assert place.draft is not None
        return residual_of(1 / mentor(place.target, place.draft, rule.relax.max_divergence)[1], place)
    return residual_of(1.0, place)


def ratio(target: float, draft: float) -> float:
    """p / q."""
    return target / draft if draft > 0 else math.inf


def distances(places: Sequence[Place]) -> tuple[float, ...]:
    """Of those that have rows."""
    return tuple(place.distance for place in places if place.draft is not None)


def willing(rule: AcceptRule, place: Place, i: int, dice: Dice) -> bool:
    """Whether the rule accepts a token that failed the exact test."""
    match rule.relax:
        case RelaxTolerance(tolerance):
            assert place.draft is not None
            room = tolerance * (1 - max(place.target))
            return dice.below(i, ratio(place.target[place.token], place.draft[place.token]) + room)
        case RelaxDivergence(limit):
            assert place.draft is not None
            lower, _ = mentor(place.target, place.draft, limit)
            return dice.below(i, ratio(place.target[place.token], lower * place.draft[place.token]))
        case RelaxTable(chances) if not math.isnan(place.distance):
            return dice.relax_below(i, table_chance(chances, place.distance))
    return relaxes(rule, place.distance, place.plain, place.token)


def offer_cost(rule: AcceptRule, place: Place) -> float:
    """Total variation that the rule's offer costs a sampled session here."""
    match rule.relax:
        case RelaxBelow(limit):
            return sum(excess_offered(rule, place)) * (place.distance <= limit)
        case RelaxTable(chances):
            return sum(excess_offered(rule, place)) * table_chance(chances, place.distance)
        case RelaxOwnLaw():
            liked = [relaxes(rule, place.distance, place.plain, token) for token in range(len(place.target))]
            return sum(excess for excess, good in zip(place.excess, liked, strict=True) if good)
        case RelaxTolerance(tolerance):
            assert place.draft is not None
            room = tolerance * (1 - max(place.target))
            return sum(min(room * q, excess) for q, excess in zip(place.draft, place.excess, strict=True))
        case RelaxDivergence(limit):
            assert place.draft is not None
            lower, _ = mentor(place.target, place.draft, limit)
            pairs = list(zip(place.target, place.draft, strict=True))
            return sum(min(p / lower, q) - min(p, q) for p, q in pairs)
    return 0.0


def excess_offered(rule: AcceptRule, place: Place) -> Law:
    """What a rule by distance puts above p when it accepts; alone, forbidden tokens are replaced from all of p."""
    if not rule.alone:
        return place.excess
    assert place.draft is not None
    allowed = [q if p > 0 else 0.0 for p, q in zip(place.target, place.draft, strict=True)]
    mass = sum(allowed)
    return [max(0.0, q - mass * p) for p, q in zip(place.target, allowed, strict=True)]


def mentor(target: Law, draft: Law, limit: float) -> tuple[float, float]:
    """(a, b) of mentored decoding; remembered, since three questions about a token ask for it."""
    return _mentor(tuple(target), tuple(draft), limit)


@lru_cache(maxsize=64)
def _mentor(target: tuple[float, ...], draft: tuple[float, ...], limit: float) -> tuple[float, float]:
    """By two bisections, one inside the other."""

    def upper(lower: float) -> float:
        low, high = 0.0, 50.0  # logarithms of b
        for _ in range(45):
            middle = (low + high) / 2
            mass = sum(
                min(max(q, p / math.exp(middle)), p / lower) for p, q in zip(target, draft, strict=True)
            )
            low, high = (middle, high) if mass > 1 else (low, middle)
        return math.exp(high)

    def divergence(lower: float) -> float:
        b = upper(lower)
        pairs = [(p, q) for p, q in zip(target, draft, strict=True) if p > 0]
        return sum(p * math.log(p / min(max(q, p / b), p / lower)) for p, q in pairs)

    low, high = -30.0, 0.0  # logarithms of a
    for _ in range(45):
        middle = (low + high) / 2
        low, high = (middle, high) if divergence(math.exp(middle)) > limit else (low, middle)
    return math.exp(high), upper(math.exp(high))


def relaxes(rule: AcceptRule, distance: float, target: Law, token: int) -> bool:
    """Whether a rule without chance accepts; ``target`` is p at temperature 1."""
    if isinstance(rule.relax, RelaxOwnLaw):
        yardstick = own_yardstick(target, rule.relax.yardstick)
        return target[token] >= min(rule.relax.ceiling, rule.relax.min_ratio * yardstick)
    if isinstance(rule.relax, RelaxBelow):
        return distance <= rule.relax.max_distance
    return False


def table_chance(chances: Sequence[float], distance: float) -> float:
    """An acceptance table's entry; the last bin holds distance 1."""
    return chances[min(len(chances) - 1, int(distance * len(chances)))]


def own_yardstick(target: Law, yardstick: Yardstick) -> float:
    """Sum of squares, exp(-H) or maximum."""
    if yardstick is Yardstick.COLLISION:
        return sum(p * p for p in target)
    if yardstick is Yardstick.ENTROPY:
        return math.exp(sum(p * math.log(p) for p in target if p > 0))
    return max(target)


def masked(
    logits: Sequence[float],
    text: Sequence[int],
    transform: SamplingTransform,
    allowed: Sequence[bool] | None = None,
) -> list[float]:
    """Penalties for what ``text`` holds, bias, what a grammar does not allow, end-of-sequence before its time.

    ``allowed`` by token id; ids beyond are not allowed. Nothing is too early where it is all that is allowed.
    """
    out, answer = list(logits), text[transform.answer_from :]
    for token in set(text):
        if token < len(out):
            factor = transform.repetition_penalty
            out[token] = out[token] / factor if out[token] > 0 else out[token] * factor
    for token in set(answer):
        if token < len(out):
            out[token] -= transform.frequency_penalty * answer.count(token) + transform.presence_penalty
    for token, bias in transform.logit_bias:
        if token < len(out):
            out[token] += bias
    if allowed is not None:
        known = len(allowed)
        out = [z if token < known and allowed[token] else -math.inf for token, z in enumerate(out)]
    if len(text) < transform.eos_from:
        late = [-math.inf if token in transform.eos_ids else z for token, z in enumerate(out)]
        if transform.grammar is None or max(late) > -math.inf:
            return late
    return out


def law(logits: Sequence[float], transform: SamplingTransform) -> Law:
    """Temperature, top-k, top-p, min-p, one after the other; temperature 0 is a point mass."""
    if transform.greedy:
        return [1.0 if token == first_max(logits) else 0.0 for token in range(len(logits))]
    kept = [z / transform.temperature for z in logits]
    if 0 < transform.top_k < len(kept):
        smallest = sorted(kept, reverse=True)[transform.top_k - 1]
        kept = [z if z >= smallest else -math.inf for z in kept]
    if transform.top_p < 1.0:
        mass, smallest = 0.0, math.inf
        for prob, z in sorted(zip(softmax(kept), kept, strict=True), reverse=True):
            if mass < transform.top_p:
                smallest = z
            mass += prob
        kept = [z if z >= smallest else -math.inf for z in kept]
    if transform.min_p > 0.0:
        probs = softmax(kept)
        kept = [
            z if p >= transform.min_p * max(probs) else -math.inf for z, p in zip(kept, probs, strict=True)
        ]
    return softmax(kept)


def softmax(logits: Sequence[float]) -> Law:
    """The law at temperature 1."""
    largest = max(logits)
    weights = [math.exp(z - largest) for z in logits]
    return [weight / sum(weights) for weight in weights]


def first_max(values: Sequence[float]) -> int:
    """Index of the largest value; the first of equals."""
    return max(range(len(values)), key=lambda i: (values[i], -i))


def spread(ids: Sequence[int], probs: Law, vocab_size: int) -> Law:
    """A law over a row's entries as a law over the vocabulary."""
    full = [0.0] * vocab_size
    for token, prob in zip(ids, probs, strict=True):
        full[token] += prob
    return full


def bucket_distance(target: Law, ids: Sequence[int], logprobs: Sequence[float]) -> float:
    """Jensen-Shannon distance, base 2, with everything outside the row as one bucket."""
    inside = {token: math.exp(lp) for token, lp in zip(ids, logprobs, strict=True) if lp > -math.inf}
    pairs = [(target[token], prob) for token, prob in inside.items()]
    pairs.append(
        (sum(p for t, p in enumerate(target) if t not in inside), max(0.0, 1 - sum(inside.values())))
    )
    return pair_distance(pairs)


def whole_distance(target: Law, draft: Law) -> float:
    """The same of two laws that are known in full."""
    return pair_distance(list(zip(target, draft, strict=True)))


def pair_distance(pairs: Sequence[tuple[float, float]]) -> float:
    """From both laws' probabilities, pair by pair."""
    bits = 0.0
    for p, q in pairs:
        mean = (p + q) / 2
        bits += sum(0.5 * x * math.log2(x / mean) for x in (p, q) if x > 0)
    return math.sqrt(min(1.0, max(0.0, bits)))


def coupled_choice(target: Law, seed: int, position: int) -> int:
    """The winner argmin E / p of the shared exponential race, stream 0; ties: lowest id."""
    races = []
    for token, prob in enumerate(target):
        word = philox(seed, position, token >> 2, 0)[token & 3]
        races.append(-math.log1p(-(word + 0.5) * 2.0**-32) / prob if prob > 0 else math.inf)
    return races.index(min(races))


def philox(seed: int, position: int, counter: int, stream: int) -> list[int]:
    """Four 32-bit words of Philox4x32-10 (Salmon et al. 2011)."""
    low = 0xFFFFFFFF
    c = [position & low, position >> 32 & low, counter, stream]
    k = [seed & low, seed >> 32 & low]
    for _ in range(10):
        first, second = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [second >> 32 ^ c[1] ^ k[0], second & low, first >> 32 ^ c[3] ^ k[1], first & low]
        k = [k[0] + 0x9E3779B9 & low, k[1] + 0xBB67AE85 & low]
    return c
