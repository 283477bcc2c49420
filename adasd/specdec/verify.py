"""Judging drafted blocks: what the target accepts, and the token that follows.

The exact test comes first, relaxation only where it fails: AdaSD's test on the Jensen-Shannon distance
(arXiv:2512.11280; with the exact test in front the law stays the same and more tokens stand; a rule may ask for the
distance ``alone`` all the same), or a test of the target's own probability of the token (``opinion``). The exact test
(``exact_tests``) is

* greedy: the drafted token is the target's largest logit;
* under a seed: it is the target's own choice with the shared noise (arXiv:2408.07978);
* sampled: rejection sampling (arXiv:2211.17192, arXiv:2302.01318).

Everything random is an argument, so equal inputs give equal outputs; ``verify_reference`` is the slow twin.
Shape letters: B sessions, K drafted tokens (longest block), J = K + 1 target laws per session, V vocabulary,
F those sessions of the B that are sampled without a seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from adasd.specdec.block_verification import num_kept, prefix_weights
from adasd.specdec.blocks import BlockBatch, RuleBatch, needs_distance
from adasd.specdec.distributions import Kind, TransformBatch, row_law, transformed_probs
from adasd.specdec.divergence import js_distance, js_distance_truncated
from adasd.specdec.exact_tests import ExactTest, RejectionSampling
from adasd.specdec.noise import Stream, uniform_noise
from adasd.specdec.relaxation import Offer, Spent


@dataclass(frozen=True, slots=True, eq=False)
class Chance:
    """Everything random about a judgement; the noise of seeded sessions follows from their seed."""

    accept_FK: Tensor  # U[0, 1): the rejection test
    expo_FV: Tensor  # Exp(1): the race that picks the next token
    relax_BK: Tensor  # U[0, 1): the draw of an acceptance table


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """The first ``num_accepted`` tokens stand, ``next_token`` follows.

    Judged are the accepted positions and the rejected one after them; elsewhere flags are False.
    """

    num_accepted_B: Tensor  # int64
    next_token_B: Tensor  # int64
    relaxed_BK: Tensor  # bool, accepted by relaxation
    exact_ok_BK: Tensor  # bool, judged and passed the exact test
    distance_BK: Tensor  # float32, Jensen-Shannon distance base 2; NaN where not judged or not needed
    distortion_B: Tensor  # float32, total variation that relaxation cost, expected, over judged positions


def judge(
    masked_logits_BJV: Tensor, blocks: BlockBatch, batch: TransformBatch, rules: RuleBatch, chance: Chance
) -> Judgement:
    """Judge all blocks at once.

    ``masked_logits_BJV`` are the target's, position by position (``masked_block_logits``); ``batch`` holds
    one row per session with the position of its block's first token. Raises ValueError if a sampled
    session's block came without draft rows.
    """
    exact = ExactTest.of(masked_logits_BJV, blocks, batch, chance.accept_FK)
    sampling = exact.rejection
    distance_BK = _distances(masked_logits_BJV, blocks, batch, rules)
    offer = Offer.of(
        masked_logits_BJV, blocks, rules, sampling, distance_BK, chance.accept_FK, chance.relax_BK
    )
    sampled = sampling.rows if sampling is not None else []
    spent = Spent.of(~exact.ok_BK & exact.allowed_BK & offer.willing_BK, offer, sampled, rules)

    at_BK = torch.arange(blocks.tokens_BK.shape[1], device=blocks.lens_B.device).expand_as(blocks.tokens_BK)
    real_BK = at_BK < blocks.lens_B[:, None]
    ok_BK, scale_FK = exact.ok_BK, _scale(offer, spent, sampled)
    if sampling is not None and any(rules.rules[row].whole_block for row in sampled):
        ok_BK, scale_FK = _whole_blocks(sampling, rules, ok_BK, scale_FK, chance.accept_FK)
    alone_BK = rules.alone_B[:, None] & spent.offered_BK
    by_rule_BK = offer.willing_BK & exact.allowed_BK
    stands_BK = real_BK & torch.where(alone_BK, by_rule_BK, ok_BK | spent.relaxed_BK)
    num_accepted_B = stands_BK.long().cumprod(dim=1).sum(dim=1)

    judged_BK = real_BK & (at_BK <= num_accepted_B[:, None])
    return Judgement(
        num_accepted_B,
        exact.next_token(num_accepted_B, chance.expo_FV, scale_FK, alone_BK),
        spent.relaxed_BK & (at_BK < num_accepted_B[:, None]),
        ok_BK & judged_BK,
        distance_BK.masked_fill(~judged_BK, torch.nan),
        spent.cost_BK.masked_fill(~judged_BK, 0.0).sum(dim=1),
    )


def _scale(offer: Offer, spent: Spent, sampled: list[int]) -> Tensor | None:
    """Factor of the target's law at a rejected position: 1 / b where mentored decoding was offered."""
    if offer.divisor_FK is None:
        return None
    return torch.where(spent.offered_BK[sampled], 1 / offer.divisor_FK, torch.ones_like(offer.divisor_FK))


def _whole_blocks(
    sampling: RejectionSampling, rules: RuleBatch, ok_BK: Tensor, scale_FK: Tensor | None, uniform_FK: Tensor
) -> tuple[Tensor, Tensor]:
    """(which tokens stand, factor of the target's law) where blocks are verified as a whole."""
    weights_FL = prefix_weights(sampling.target_prob_FK, sampling.draft_prob_FK)
    kept_F = num_kept(
        weights_FL, sampling.target_row_probs(), sampling.row_probs_FKR, sampling.lens_F, uniform_FK
    )
    some = [f for f, row in enumerate(sampling.rows) if rules.rules[row].whole_block]
    at_K = torch.arange(uniform_FK.shape[1], device=kept_F.device)
    ok_BK[[sampling.rows[f] for f in some]] = at_K < kept_F[some, None]
    scale_FK = torch.ones_like(uniform_FK) if scale_FK is None else scale_FK
    scale_FK[some] = weights_FL[some, : uniform_FK.shape[1]]
    return ok_BK, scale_FK


def draw_chance(
    batch: TransformBatch,
    rules: RuleBatch,
    num_drafted: int,
    vocab_size: int,
    generator: torch.Generator | None = None,
) -> Chance:
    """Draw what ``judge`` needs for these sessions; ``num_drafted`` is K.

    A seeded session's table draws come from its seed, so that its answer can be repeated.
    """
    device, num_sampled = batch.position_N.device, len(batch.rows_of(Kind.SAMPLED))
    accept_FK = torch.rand(num_sampled, num_drafted, device=device, generator=generator)
    expo_FV = torch.empty(num_sampled, vocab_size, device=device).exponential_(generator=generator)
    relax_BK = torch.zeros(len(batch.transforms), num_drafted, device=device)
    if rules.draws and num_drafted:
        relax_BK.uniform_(generator=generator)
        if seeded := [row for row, transform in enumerate(batch.transforms) if transform.seed is not None]:
            each = batch.select(seeded).expand(num_drafted)
            relax_BK[seeded] = uniform_noise(each.seed_N, each.position_N, Stream.RELAX).view(len(seeded), -1)
    return Chance(accept_FK, expo_FV, relax_BK)


def _distances(
    masked_logits_BJV: Tensor, blocks: BlockBatch, batch: TransformBatch, rules: RuleBatch
) -> Tensor:
    """Distance of the two laws where a rule needs it, NaN elsewhere: after masks at temperature 1, or as sampled."""
    distance_BK = torch.full_like(blocks.tokens_BK, torch.nan, dtype=torch.float32)
    wanted = [row for row, sent in enumerate(blocks.has_rows) if sent and needs_distance(rules.rules[row])]
    if processed := [row for row in wanted if rules.rules[row].processed]:
        distance_BK[processed] = _processed_distances(masked_logits_BJV, blocks, batch, processed)
    if rows := [row for row in wanted if not rules.rules[row].processed]:
        target_probs_NV = torch.softmax(masked_logits_BJV[rows, :-1].flatten(0, 1), dim=-1)
        row_ids_NR, row_logprobs_NR = blocks.row_ids_BKR[rows], blocks.row_logprobs_BKR[rows]
        distance_N = js_distance_truncated(
            target_probs_NV, row_ids_NR.flatten(0, 1), row_logprobs_NR.flatten(0, 1)
        )
        distance_BK[rows] = distance_N.view(len(rows), -1)
    return distance_BK


def _processed_distances(
    masked_logits_BJV: Tensor, blocks: BlockBatch, batch: TransformBatch, rows: list[int]
) -> Tensor:
    """Of the transformed distributions; the draft samples from its top-k distribution, so no tail is missing."""
    logits_NV = masked_logits_BJV[rows, :-1].flatten(0, 1)
    laws = batch.select(rows).expand(blocks.tokens_BK.shape[1])
    draft_NR = row_law(blocks.row_logprobs_BKR[rows].flatten(0, 1), laws)
    draft_NV = torch.zeros_like(logits_NV).scatter_add_(-1, blocks.row_ids_BKR[rows].flatten(0, 1), draft_NR)
    return js_distance(transformed_probs(logits_NV, laws), draft_NV).view(len(rows), -1)
