"""The slow, obvious twin of ``verify`` for one session: plain Python, double precision, same random inputs.

It shares no arithmetic with the tensor code: warp, noise, distance and rules are written out once more. Tests
hold the two against each other, and the fake engine (adasd.testing) judges with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from adasd.messages import AcceptRule, RelaxBelow, RelaxOwnLaw, RelaxTable, Warp, Yardstick

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


def judge_one(
    masked_logits: Sequence[Sequence[float]],
    block: Sequence[int],
    row_ids: Sequence[Sequence[int]] | None,
    row_logprobs: Sequence[Sequence[float]] | None,
    warp: Warp,
    base_len: int,
    rule: AcceptRule,
    accept: Sequence[float],
    expo: Sequence[float],
    relax: Sequence[float],
) -> ReferenceJudgement:
    """Judge one block token by token; ``masked_logits`` has one row more than ``block`` has tokens."""
    vocab_size = len(masked_logits[0])
    relaxed: list[bool] = []
    exact_ok: list[bool] = []
    distances: list[float] = []
    for i, token in enumerate(block):
        target = law(masked_logits[i], warp)
        distance, draft = math.nan, None
        if row_ids is not None and row_logprobs is not None:
            draft = spread(row_ids[i], law(row_logprobs[i], warp), vocab_size)
            distance = bucket_distance(softmax(masked_logits[i]), row_ids[i], row_logprobs[i])
            distances.append(distance)
        if warp.greedy:
            ok, allowed = token == first_max(masked_logits[i]), masked_logits[i][token] > -math.inf
        elif warp.seed is not None:
            ok, allowed = token == coupled_choice(target, warp.seed, base_len + i), target[token] > 0
        else:
            assert draft is not None
            ok, allowed = accept[i] * draft[token] < target[token], target[token] > 0
        exact_ok.append(ok)
        rescued = (
            not ok
            and allowed
            and sum(relaxed) < rule.relax_budget
            and relaxes(rule, distance, relax[i], softmax(masked_logits[i]), token)
        )
        relaxed.append(rescued)
        if not ok and not rescued:
            next_token = replacement(masked_logits[i], target, draft, warp, base_len + i, expo)
            return ReferenceJudgement(i, next_token, tuple(relaxed[:-1]), tuple(exact_ok), tuple(distances))
    end = len(block)
    target = law(masked_logits[end], warp)
    next_token = replacement(masked_logits[end], target, None, warp, base_len + end, expo)
    return ReferenceJudgement(end, next_token, tuple(relaxed), tuple(exact_ok), tuple(distances))


def replacement(
    logits: Sequence[float],
    target: Law,
    draft: Law | None,
    warp: Warp,
    position: int,
    expo: Sequence[float],
) -> int:
    """The target's token at a position; ``draft`` is the law whose token was rejected there."""
    if warp.greedy:
        return first_max(logits)
    if warp.seed is not None:
        return coupled_choice(target, warp.seed, position)
    weights = target
    if draft is not None:
        residual = [max(0.0, t - d) for t, d in zip(target, draft, strict=True)]
        weights = residual if sum(residual) > 0 else target
    return first_max([weight / e for weight, e in zip(weights, expo, strict=True)])


def relaxes(rule: AcceptRule, distance: float, uniform: float, target: Law, token: int) -> bool:
    """Whether the rule accepts a token that failed the exact test; ``target`` is p at temperature 1."""
    if isinstance(rule.relax, RelaxOwnLaw):
        yardstick = own_yardstick(target, rule.relax.yardstick)
        return target[token] >= min(rule.relax.ceiling, rule.relax.min_ratio * yardstick)
    if isinstance(rule.relax, RelaxBelow):
        return distance <= rule.relax.max_distance
    if isinstance(rule.relax, RelaxTable) and not math.isnan(distance):
        num_bins = len(rule.relax.accept_prob)
        return uniform < rule.relax.accept_prob[min(num_bins - 1, int(distance * num_bins))]
    return False


def own_yardstick(target: Law, yardstick: Yardstick) -> float:
    """Sum of squares, exp(-H) or maximum."""
    if yardstick is Yardstick.COLLISION:
        return sum(p * p for p in target)
    if yardstick is Yardstick.ENTROPY:
        return math.exp(sum(p * math.log(p) for p in target if p > 0))
    return max(target)


def masked(
    logits: Sequence[float], text: Sequence[int], warp: Warp, allowed: Sequence[bool] | None = None
) -> list[float]:
    """Penalties for what ``text`` holds, bias, what a grammar does not allow, end-of-sequence before its time.

    ``allowed`` by token id; ids beyond are not allowed. Nothing is too early where it is all that is allowed.
    """
    out, answer = list(logits), text[warp.answer_from :]
    for token in set(text):
        if token < len(out):
            factor = warp.repetition_penalty
            out[token] = out[token] / factor if out[token] > 0 else out[token] * factor
    for token in set(answer):
        if token < len(out):
            out[token] -= warp.frequency_penalty * answer.count(token) + warp.presence_penalty
    for token, bias in warp.logit_bias:
        if token < len(out):
            out[token] += bias
    if allowed is not None:
        known = len(allowed)
        out = [z if token < known and allowed[token] else -math.inf for token, z in enumerate(out)]
    if len(text) < warp.eos_from:
        late = [-math.inf if token in warp.eos_ids else z for token, z in enumerate(out)]
        if warp.grammar is None or max(late) > -math.inf:
            return late
    return out


def law(logits: Sequence[float], warp: Warp) -> Law:
    """Temperature, top-k, top-p, min-p, one after the other; temperature 0 is a point mass."""
    if warp.greedy:
        return [1.0 if token == first_max(logits) else 0.0 for token in range(len(logits))]
    kept = [z / warp.temperature for z in logits]
    if 0 < warp.top_k < len(kept):
        smallest = sorted(kept, reverse=True)[warp.top_k - 1]
        kept = [z if z >= smallest else -math.inf for z in kept]
    if warp.top_p < 1.0:
        mass, smallest = 0.0, math.inf
        for prob, z in sorted(zip(softmax(kept), kept, strict=True), reverse=True):
            if mass < warp.top_p:
                smallest = z
            mass += prob
        kept = [z if z >= smallest else -math.inf for z in kept]
    if warp.min_p > 0.0:
        probs = softmax(kept)
        kept = [z if p >= warp.min_p * max(probs) else -math.inf for z, p in zip(kept, probs, strict=True)]
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
