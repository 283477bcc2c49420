"""The slow, obvious twin of ``verify`` for one session: plain Python, double precision, same random inputs.

It shares no arithmetic with the tensor code: transform, noise, distance and rules are implemented a second time.
Tests compare the two, and the fake engine (adasd.testing) judges with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from adasd.methods.registry import acceptance_method
from adasd.rounds import BLOCK, AcceptanceRule, Params, SamplingTransform
from adasd.specdec.random_source import RandomSource

Probs = list[float]
"""Probabilities by token id."""


@dataclass(frozen=True, slots=True)
class ReferenceJudgement:
    """As ``verify.Judgement`` for one session, judged positions only."""

    num_accepted: int
    next_token: int
    relaxed: tuple[bool, ...]
    exact_ok: tuple[bool, ...]
    distances: tuple[float, ...]  # empty if the session sent no distributions
    distortion: float = 0.0


@dataclass(frozen=True, slots=True)
class Place:
    """One drafted token with both models' distributions."""

    token: int
    logits: Sequence[float]  # the target's, masked
    target: Probs  # the target's sampling distribution
    draft: Probs | None  # the draft's sampling distribution; None if it was not sent
    distance: float  # nan without the draft's distribution

    @property
    def excess(self) -> Probs:
        """(q - p)+ of the tokens that the target may emit."""
        assert self.draft is not None
        return [max(0.0, q - p) if p > 0 else 0.0 for p, q in zip(self.target, self.draft, strict=True)]


@dataclass(frozen=True, slots=True)
class ReferenceBlock:
    """One session's block: the ``BlockInputs`` of an acceptance method."""

    places: Sequence[Place]
    params: Params
    exact_ok: Callable[[int], bool]  # whether the token at a position passes the exact test

    @property
    def tokens(self) -> list[int]:
        return [place.token for place in self.places]

    @property
    def logits(self) -> list[Sequence[float]]:
        return [place.logits for place in self.places]

    def plain(self, i: int) -> Probs:
        """The target's probabilities after masks at temperature 1."""
        return softmax(self.places[i].logits)

    def entropy(self, i: int) -> float:
        """Their entropy in nats."""
        return -sum(p * math.log(p) for p in self.plain(i) if p > 0)

    def likely(self, i: int, token: int, min_ratio: float) -> bool:
        """Whether a token has at least this share of the largest probability."""
        probs = self.plain(i)
        return probs[token] >= min_ratio * max(probs)

    def distance(self, i: int) -> float:
        return self.places[i].distance

    def number(self, name: str) -> float:
        value = self.params[name]
        assert not isinstance(value, tuple)
        return value

    def table(self, name: str) -> tuple[float, ...]:
        value = self.params[name]
        assert isinstance(value, tuple)
        return value


def judge_one(
    masked_logits: Sequence[Sequence[float]],
    block: Sequence[int],
    row_ids: Sequence[Sequence[int]] | None,
    row_logprobs: Sequence[Sequence[float]] | None,
    transform: SamplingTransform,
    base_len: int,
    rule: AcceptanceRule,
    source: RandomSource,
) -> ReferenceJudgement:
    """Judge one block token by token; ``masked_logits`` has one entry more than ``block`` has tokens."""
    places = []
    for i, token in enumerate(block):
        distance, draft = math.nan, None
        if row_ids is not None and row_logprobs is not None:
            draft = spread(row_ids[i], sampling_probs(row_logprobs[i], transform), len(masked_logits[i]))
            distance = bucket_distance(softmax(masked_logits[i]), row_ids[i], row_logprobs[i])
        places.append(
            Place(token, masked_logits[i], sampling_probs(masked_logits[i], transform), draft, distance)
        )
    behind = sampling_probs(masked_logits[-1], transform)
    if rule.name == BLOCK:
        return judge_whole(places, behind, source)
    sampled = not transform.greedy and transform.seed is None

    def after(at: int) -> int:
        """The target's own token after ``at`` accepted ones."""
        if transform.greedy:
            return first_max(masked_logits[at])
        if transform.seed is not None:
            return coupled_choice(sampling_probs(masked_logits[at], transform), transform.seed, base_len + at)
        return source.pick(behind)

    def passes(at: int) -> bool:
        """The exact test."""
        place = places[at]
        if not sampled:
            return place.token == after(at)
        assert place.draft is not None
        return source.below(at, ratio(place.target[place.token], place.draft[place.token]))

    method = None if rule.is_exact else acceptance_method(rule.name)
    whole = ReferenceBlock(places, rule.params, passes)
    relaxed: list[bool] = []
    exact_ok: list[bool] = []
    distortion, tv_left = 0.0, rule.max_distortion
    for i, place in enumerate(places):
        ok, would, cost = passes(i), False, 0.0
        if method is not None and sum(relaxed) < rule.relax_budget:
            allowed = (
                place.logits[place.token] > -math.inf if transform.greedy else place.target[place.token] > 0
            )
            would = (
                not ok and allowed and source.relax_below(i, method.reference_chance(whole, i, place.token))
            )
            cost = float(would)
            if sampled and not method.costs_whole_tokens:
                chances = (method.reference_chance(whole, i, token) for token in range(len(place.target)))
                cost = sum(excess * chance for excess, chance in zip(place.excess, chances, strict=True))
            would = would and cost <= tv_left
            cost = cost if cost <= tv_left else 0.0
        distortion, tv_left = distortion + cost, tv_left - cost
        exact_ok.append(ok)
        relaxed.append(would)
        if not (ok or would):
            next_token = source.pick(residual_of(1.0, place)) if sampled else after(i)
            return ReferenceJudgement(
                i, next_token, tuple(relaxed[:-1]), tuple(exact_ok), distances(places[: i + 1]), distortion
            )
    return ReferenceJudgement(
        len(block), after(len(block)), tuple(relaxed), tuple(exact_ok), distances(places), distortion
    )


def judge_whole(places: Sequence[Place], behind: Probs, source: RandomSource) -> ReferenceJudgement:
    """Block verification (arXiv:2403.10444): test every prefix, keep the longest that passes."""
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
        if source.below(i - 1, chance):
            kept = i
    exact_ok = (True,) * kept + (False,) * (kept < len(places))
    weighed = residual_of(weights[kept], places[kept]) if kept < len(places) else behind
    next_token = source.pick(weighed)
    return ReferenceJudgement(kept, next_token, (False,) * kept, exact_ok, distances(places[: kept + 1]))


def excess_of(weight: float, place: Place) -> Probs:
    """max(0, weight p - q)."""
    assert place.draft is not None
    return [max(0.0, weight * p - q) for p, q in zip(place.target, place.draft, strict=True)]


def residual_of(weight: float, place: Place) -> Probs:
    """The weights from which a rejected token's replacement is drawn; p itself if rounding leaves nothing."""
    left = excess_of(weight, place)
    return left if sum(left) > 0 else place.target


def ratio(target: float, draft: float) -> float:
    """p / q."""
    return target / draft if draft > 0 else math.inf


def distances(places: Sequence[Place]) -> tuple[float, ...]:
    """The distances of the tokens that came with draft distributions."""
    return tuple(place.distance for place in places if place.draft is not None)


def masked(
    logits: Sequence[float],
    text: Sequence[int],
    transform: SamplingTransform,
    allowed: Sequence[bool] | None = None,
) -> list[float]:
    """Apply penalties for the tokens of ``text``, bias, the grammar's mask, and the mask of an early end-of-sequence.

    ``allowed`` is by token id; ids beyond it are not allowed. If a grammar allows nothing but end-of-sequence, that
    stays allowed.
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


def sampling_probs(logits: Sequence[float], transform: SamplingTransform) -> Probs:
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


def softmax(logits: Sequence[float]) -> Probs:
    """The probabilities at temperature 1."""
    largest = max(logits)
    weights = [math.exp(z - largest) for z in logits]
    return [weight / sum(weights) for weight in weights]


def first_max(values: Sequence[float]) -> int:
    """Index of the largest value; the first of equals."""
    return max(range(len(values)), key=lambda i: (values[i], -i))


def spread(ids: Sequence[int], probs: Probs, vocab_size: int) -> Probs:
    """A top-k distribution's probabilities, spread over the whole vocabulary."""
    full = [0.0] * vocab_size
    for token, prob in zip(ids, probs, strict=True):
        full[token] += prob
    return full


def bucket_distance(target: Probs, ids: Sequence[int], logprobs: Sequence[float]) -> float:
    """Jensen-Shannon distance, base 2, with everything outside the top-k tokens as one bucket."""
    inside = {token: math.exp(lp) for token, lp in zip(ids, logprobs, strict=True) if lp > -math.inf}
    pairs = [(target[token], prob) for token, prob in inside.items()]
    pairs.append(
        (sum(p for t, p in enumerate(target) if t not in inside), max(0.0, 1 - sum(inside.values())))
    )
    return pair_distance(pairs)


def pair_distance(pairs: Sequence[tuple[float, float]]) -> float:
    """Jensen-Shannon distance, base 2, from pairs (p, q) of probabilities."""
    bits = 0.0
    for p, q in pairs:
        mean = (p + q) / 2
        bits += sum(0.5 * x * math.log2(x / mean) for x in (p, q) if x > 0)
    return math.sqrt(min(1.0, max(0.0, bits)))


def coupled_choice(target: Probs, seed: int, position: int) -> int:
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
