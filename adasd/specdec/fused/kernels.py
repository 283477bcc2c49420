"""Triton kernels over rows of logits; each program reads one row. All sums are float32 unless said otherwise.

A row's *sampling distribution* comes from its logits by temperature, top-k, top-p, min-p. Its shape is three numbers:
the largest logit m, the floor (the smallest kept value of (logit - m) / temperature), and the logarithm of the kept
mass. Top-k and top-p are found by a search over the 32 bits of the floor instead of a sort.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOWEST_KEY = tl.constexpr(-2139095041)
"""``_key`` of minus infinity."""

WORD = tl.constexpr(2.0**-32)
TINY = tl.constexpr(1.1754943508222875e-38)


@triton.jit
def _key(x):
    """float32 as int32 in the same order."""
    bits = x.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _number(key):
    """The float32 of a key."""
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _tempered(logits, row, at, num, largest, temperature):
    """(logit - largest) / temperature of some tokens; minus infinity behind the last one."""
    x = tl.load(logits + row * num + at, mask=at < num, other=float("-inf")).to(tl.float32)
    return (x - largest) / temperature


@triton.jit
def distributions_kernel(
    logits, temperatures, top_ks, top_ps, min_ps, tokens,
    choices, largests, log_sums, entropies, collisions, floors, log_kepts, token_probs,
    num, BLOCK: tl.constexpr,
):  # fmt: skip
    """Choice, log-sum-exp, entropy and sum of squares at temperature 1; the sampling distribution's shape, and its
    probability of a token."""
    row = tl.program_id(0).to(tl.int64)
    temperature = tl.load(temperatures + row)
    lanes = tl.arange(0, BLOCK)

    largest, choice = float("-inf"), 0
    for first in range(0, num, BLOCK):
        at = first + lanes
        x = tl.load(logits + row * num + at, mask=at < num, other=float("-inf")).to(tl.float32)
        x = tl.where(x == x, x, float("-inf"))  # padding may be NaN
        here = tl.max(x, axis=0)
        where = first + tl.argmax(x, axis=0).to(tl.int32)
        choice = tl.where(here > largest, where, choice)
        largest = tl.maximum(largest, here)

    total = tl.zeros([BLOCK], tl.float32)
    moment = tl.zeros([BLOCK], tl.float32)
    squares = tl.zeros([BLOCK], tl.float32)
    for first in range(0, num, BLOCK):
        d = _tempered(logits, row, first + lanes, num, largest, 1.0)
        weight = tl.exp(d)
        total += weight
        moment += tl.where(weight > 0, weight * d, 0.0)
        squares += weight * weight
    total_1 = tl.sum(total, axis=0)
    log_sum = tl.log(total_1)

    floor = LOWEST_KEY
    top_k = tl.load(top_ks + row)
    if (top_k > 0) & (top_k < num):
        low, high = LOWEST_KEY, 0
        for _ in range(32):
            middle = low + ((high - low) >> 1)
            count = tl.zeros([BLOCK], tl.int32)
            for first in range(0, num, BLOCK):
                key = _key(_tempered(logits, row, first + lanes, num, largest, temperature))
                count += (key > middle).to(tl.int32)
            few = tl.sum(count, axis=0) < top_k
            high = tl.where(few, middle, high)
            low = tl.where(few | (low >= high), low, middle + 1)
        floor = high
    top_p = tl.load(top_ps + row)
    if top_p < 1.0:
        kept = tl.zeros([BLOCK], tl.float32)
        for first in range(0, num, BLOCK):
            d = _tempered(logits, row, first + lanes, num, largest, temperature)
            kept += tl.where(_key(d) >= floor, tl.exp(d), 0.0)
        mass = tl.sum(kept, axis=0) * top_p
        low, high = floor, 0
        for _ in range(32):
            middle = low + ((high - low) >> 1)
            above = tl.zeros([BLOCK], tl.float32)
            for first in range(0, num, BLOCK):
                d = _tempered(logits, row, first + lanes, num, largest, temperature)
                above += tl.where(_key(d) > middle, tl.exp(d), 0.0)
            little = tl.sum(above, axis=0) < mass
            high = tl.where(little, middle, high)
            low = tl.where(little | (low >= high), low, middle + 1)
        floor = high
    min_p = tl.load(min_ps + row)
    if min_p > 0.0:
        floor = tl.maximum(floor, _key(tl.log(min_p)))

    kept = tl.zeros([BLOCK], tl.float32)
    for first in range(0, num, BLOCK):
        d = _tempered(logits, row, first + lanes, num, largest, temperature)
        kept += tl.where(_key(d) >= floor, tl.exp(d), 0.0)
    log_kept = tl.log(tl.sum(kept, axis=0))
    token = tl.load(tokens + row)
    d = (tl.load(logits + row * num + token).to(tl.float32) - largest) / temperature

    tl.store(choices + row, choice)
    tl.store(largests + row, largest)
    tl.store(log_sums + row, log_sum)
    tl.store(entropies + row, log_sum - tl.sum(moment, axis=0) / total_1)
    tl.store(collisions + row, tl.sum(squares, axis=0) / (total_1 * total_1))
    tl.store(floors + row, _number(floor))
    tl.store(log_kepts + row, log_kept)
    tl.store(token_probs + row, tl.where(_key(d) >= floor, tl.exp(d - log_kept), 0.0))


@triton.jit
def _prob(logits, row, at, num, largest, temperature, floor, log_kept):
    """The sampling distribution's probabilities of some tokens."""
    d = _tempered(logits, row, at, num, largest, temperature)
    return tl.where((d >= floor) & (at < num), tl.exp(d - log_kept), 0.0)


@triton.jit
def _exponential(word):
    """Exp(1) noise of a 32-bit word, ``-log1p(-u)`` in float64: a series where 1 - u would lose digits."""
    u = (word.to(tl.uint32, bitcast=True).to(tl.float64) + 0.5) * WORD
    series = u * (1.0 + u * (0.5 + u * (1.0 / 3.0 + u * 0.25)))
    return tl.where(u < 1e-4, series, -tl.log(1.0 - u)).to(tl.float32)


@triton.jit
def coupled_kernel(
    logits, rows, largests, temperatures, floors, log_kepts, seeds, positions, stream, choices,
    num, BLOCK: tl.constexpr,
):  # fmt: skip
    """argmin of E / p with each position's shared noise (Philox4x32-10, as ``adasd.specdec.noise``)."""
    n = tl.program_id(0)
    row = tl.load(rows + n)
    largest, temperature = tl.load(largests + n), tl.load(temperatures + n)
    floor, log_kept = tl.load(floors + n), tl.load(log_kepts + n)
    seed, position = tl.load(seeds + n), tl.load(positions + n)
    lanes = tl.arange(0, BLOCK)
    nothing = tl.zeros([BLOCK], tl.uint32)
    low = (position & 0xFFFFFFFF).to(tl.uint32) + nothing
    high = ((position >> 32) & 0xFFFFFFFF).to(tl.uint32) + nothing
    best, choice = float("inf"), 0
    for first in range(0, (num + 3) // 4, BLOCK):
        counter = first + lanes
        words = tl.philox(seed, low, high, counter.to(tl.uint32), nothing + stream)
        for lane in tl.static_range(4):
            at = 4 * counter + lane
            prob = _prob(logits, row, at, num, largest, temperature, floor, log_kept)
            race = tl.where(prob > 0, _exponential(words[lane]) / prob, float("inf"))
            here = tl.min(race, axis=0)
            where = 4 * (first + tl.argmin(race, axis=0).to(tl.int32)) + lane
            sooner = (here < best) | ((here == best) & (where < choice))
            choice = tl.where(sooner, where, choice)
            best = tl.minimum(best, here)
    tl.store(choices + n, choice)


@triton.jit
def draw_kernel(
    logits, rows, largests, temperatures, floors, log_kepts, rejected, noise, choices,
    num, BLOCK: tl.constexpr,
):  # fmt: skip
    """argmax of (p - q)+ / E; of p / E if nothing is left of p."""
    n = tl.program_id(0).to(tl.int64)
    row = tl.load(rows + n)
    largest, temperature = tl.load(largests + n), tl.load(temperatures + n)
    floor, log_kept = tl.load(floors + n), tl.load(log_kepts + n)
    lanes = tl.arange(0, BLOCK)
    left = tl.zeros([BLOCK], tl.float32)
    best, choice, best_whole, choice_whole = -1.0, 0, -1.0, 0
    for first in range(0, num, BLOCK):
        at = first + lanes
        inside = at < num
        prob = _prob(logits, row, at, num, largest, temperature, floor, log_kept)
        rest = tl.maximum(prob - tl.load(rejected + n * num + at, mask=inside, other=0.0), 0.0)
        left += rest
        time = tl.maximum(tl.load(noise + n * num + at, mask=inside, other=1.0), TINY)
        race, race_whole = tl.where(inside, rest / time, -1.0), tl.where(inside, prob / time, -1.0)
        here, here_whole = tl.max(race, axis=0), tl.max(race_whole, axis=0)
        choice = tl.where(here > best, first + tl.argmax(race, axis=0).to(tl.int32), choice)
        choice_whole = tl.where(
            here_whole > best_whole, first + tl.argmax(race_whole, axis=0).to(tl.int32), choice_whole
        )
        best, best_whole = tl.maximum(best, here), tl.maximum(best_whole, here_whole)
    tl.store(choices + n, tl.where(tl.sum(left, axis=0) > 0, choice, choice_whole))


@triton.jit
def _js_terms(target, draft):
    """Each token's share of the divergence in bits, times 4 ln 2; float64 (see ``divergence``)."""
    both = target + draft
    skew = (target - draft) / tl.maximum(both, 1e-300)
    up, down = 1.0 + skew, 1.0 - skew
    terms = tl.where(up > 0, up * tl.log(tl.maximum(up, 1e-300)), 0.0)
    return both * (terms + tl.where(down > 0, down * tl.log(tl.maximum(down, 1e-300)), 0.0))


@triton.jit
def distance_kernel(
    logits, rows, largests, log_sums, top_ids, top_logprobs, distances,
    num, num_entries, BLOCK: tl.constexpr,
):  # fmt: skip
    """Jensen-Shannon distance, base 2, at temperature 1 to a draft's top-k distribution; the rest is one tail."""
    n = tl.program_id(0)
    row = tl.load(rows + n)
    largest, log_sum = tl.load(largests + n), tl.load(log_sums + n)
    at = tl.arange(0, BLOCK)
    inside = at < num_entries
    ids = tl.load(top_ids + n * num_entries + at, mask=inside, other=0)
    logprob = tl.load(top_logprobs + n * num_entries + at, mask=inside, other=float("-inf"))
    known = logprob > float("-inf")
    x = tl.load(logits + row * num + ids, mask=inside, other=float("-inf")).to(tl.float32)
    target = tl.where(known, tl.exp((x - largest - log_sum).to(tl.float64)), 0.0)
    draft = tl.exp(logprob.to(tl.float64))
    target_tail = tl.maximum(1.0 - tl.sum(target, axis=0), 0.0)
    draft_tail = tl.maximum(1.0 - tl.sum(draft, axis=0), 0.0)
    complete = tl.sum(known.to(tl.int32), axis=0) >= num
    draft_tail = tl.where(complete, 0.0, draft_tail)
    target_tail = tl.where(complete, 0.0, target_tail)
    bits = tl.sum(_js_terms(target, draft), axis=0) + _js_terms(target_tail, draft_tail)
    divergence = tl.minimum(tl.maximum(bits / 2.772588722239781, 0.0), 1.0)
    tl.store(distances + n, tl.sqrt(divergence).to(tl.float32))
