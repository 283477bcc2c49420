"""Judging drafted blocks: how many tokens the target accepts, and the token that follows.

The exact test (``exact_tests``) is

* greedy: the drafted token is the target's largest logit;
* under a seed: it is the target's own choice with the shared noise (arXiv:2408.07978);
* sampled: rejection sampling (arXiv:2211.17192, arXiv:2302.01318), token by token or by whole blocks
  (arXiv:2403.10444).

If it fails, an acceptance method may still accept the token (``relaxation``). For a method that looks at the distance
alone, the output has the same distribution as if the method decided alone, and more tokens are accepted.

Everything random is an argument, so equal inputs give equal outputs; ``verify_reference`` is the same, written plainly.
Shape letters: B sessions, K drafted tokens (longest block), J = K + 1 positions of the target, V vocabulary,
F of the B sessions that are sampled without a seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adasd.methods.registry import needs_distances
from adasd.rounds import BLOCK, AcceptanceRule
from adasd.specdec.block_verification import num_kept, prefix_weights
from adasd.specdec.blocks import BlockBatch
from adasd.specdec.distributions import Kind, TransformBatch
from adasd.specdec.divergence import js_distance_truncated
from adasd.specdec.entries import entries, put_entries
from adasd.specdec.exact_tests import ExactTest, RejectionSampling
from adasd.specdec.noise import Stream, uniform_noise
from adasd.specdec.relaxation import relax


@dataclass(frozen=True, slots=True, eq=False)
class RandomNumbers:
    """The random numbers of a judgement; a seeded session's shared noise is computed from its seed instead."""

    accept_FK: Tensor  # U[0, 1): the rejection test
    expo_FV: Tensor  # Exp(1): the race that picks the next token
    relax_BK: Tensor  # U[0, 1): acceptance methods that accept with a chance


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """The first ``num_accepted`` tokens are accepted, ``next_token`` follows.

    Judged positions are the accepted ones and the rejected one after them; elsewhere flags are False.
    """

    num_accepted_B: Tensor  # int64
    next_token_B: Tensor  # int64
    relaxed_BK: Tensor  # bool, accepted by relaxation
    exact_ok_BK: Tensor  # bool, passed the exact test at a judged position
    distance_BK: Tensor  # float32, Jensen-Shannon distance base 2; NaN where not judged or not needed
    distortion_B: Tensor  # float32, expected total variation from relaxation, summed over judged positions


def judge(
    masked_logits_BJV: Tensor,
    blocks: BlockBatch,
    batch: TransformBatch,
    rules: Sequence[AcceptanceRule],
    numbers: RandomNumbers,
) -> Judgement:
    """Judge all blocks at once.

    ``masked_logits_BJV`` are the target's, position by position (``masked_block_logits``); ``batch`` holds one
    entry per session with the position of its block's first token. Raises ValueError if a sampled session's block
    came without the draft's distributions.
    """
    exact = ExactTest.of(masked_logits_BJV, blocks, batch, numbers.accept_FK)
    distance_BK = _distances(masked_logits_BJV, blocks, rules)
    relaxation = relax(masked_logits_BJV, blocks, rules, exact, distance_BK, numbers.relax_BK)

    ok_BK, scale_FK = exact.ok_BK, None
    num_drafted = blocks.tokens_BK.shape[1]  # 0 if the verification budget cut every block off
    if exact.rejection is not None and num_drafted and any(rule.name == BLOCK for rule in rules):
        ok_BK, scale_FK = _whole_blocks(exact.rejection, rules, ok_BK, numbers.accept_FK)
    index_K = torch.arange(num_drafted, device=blocks.lens_B.device)
    drafted_BK = index_K < blocks.lens_B[:, None]
    stands_BK = drafted_BK & (ok_BK | relaxation.relaxed_BK)
    num_accepted_B = stands_BK.long().cumprod(dim=1).sum(dim=1)

    judged_BK = drafted_BK & (index_K <= num_accepted_B[:, None])
    return Judgement(
        num_accepted_B,
        exact.next_token(num_accepted_B, numbers.expo_FV, scale_FK),
        relaxation.relaxed_BK & (index_K < num_accepted_B[:, None]),
        ok_BK & judged_BK,
        distance_BK.masked_fill(~judged_BK, torch.nan),
        relaxation.cost_BK.masked_fill(~judged_BK, 0.0).sum(dim=1),
    )


def _whole_blocks(
    sampling: RejectionSampling, rules: Sequence[AcceptanceRule], ok_BK: Tensor, uniform_FK: Tensor
) -> tuple[Tensor, Tensor]:
    """(accepted tokens, factor of the target's probabilities) under block verification."""
    weights_FL = prefix_weights(sampling.target_prob_FK, sampling.draft_prob_FK)
    kept_F = num_kept(
        weights_FL, sampling.target_top_probs(), sampling.top_probs_FKR, sampling.lens_F, uniform_FK
    )
    by_blocks = [f for f, b in enumerate(sampling.indices) if rules[b].name == BLOCK]
    index_K, ok_BK = torch.arange(uniform_FK.shape[1], device=kept_F.device), ok_BK.clone()
    ok_BK[[sampling.indices[f] for f in by_blocks]] = index_K < kept_F[by_blocks, None]
    scale_FK = torch.ones_like(uniform_FK)
    scale_FK[by_blocks] = weights_FL[by_blocks, : uniform_FK.shape[1]]
    return ok_BK, scale_FK


def draw_random_numbers(
    batch: TransformBatch,
    rules: Sequence[AcceptanceRule],
    num_drafted: int,
    vocab_size: int,
    generator: torch.Generator | None = None,
) -> RandomNumbers:
    """Draw the random numbers that ``judge`` needs; ``num_drafted`` is K.

    For a seeded session, the acceptance method's numbers come from the seed, so that its answer is reproducible.
    """
    device, num_sampled = batch.position_N.device, len(batch.indices_of(Kind.SAMPLED))
    accept_FK = torch.rand(num_sampled, num_drafted, device=device, generator=generator)
    expo_FV = torch.empty(num_sampled, vocab_size, device=device).exponential_(generator=generator)
    relax_BK = torch.zeros(len(batch.transforms), num_drafted, device=device)
    if num_drafted and not all(rule.is_exact for rule in rules):
        relax_BK.uniform_(generator=generator)
        if seeded := [b for b, transform in enumerate(batch.transforms) if transform.seed is not None]:
            each = batch.select(seeded).expand(num_drafted)
            relax_BK[seeded] = uniform_noise(each.seed_N, each.position_N, Stream.RELAX).view(len(seeded), -1)
    return RandomNumbers(accept_FK, expo_FV, relax_BK)


def _distances(masked_logits_BJV: Tensor, blocks: BlockBatch, rules: Sequence[AcceptanceRule]) -> Tensor:
    """Distance of the two distributions after masks at temperature 1, if the rule needs it; NaN elsewhere."""
    distance_BK = torch.full_like(blocks.tokens_BK, torch.nan, dtype=torch.float32)
    wanted = [b for b, sent in enumerate(blocks.has_distributions) if sent and needs_distances(rules[b])]
    if wanted:
        target_probs_NV = torch.softmax(entries(masked_logits_BJV, wanted)[:, :-1].flatten(0, 1), dim=-1)
        top = entries(blocks.top_ids_BKR, wanted), entries(blocks.top_logprobs_BKR, wanted)
        distance_N = js_distance_truncated(target_probs_NV, top[0].flatten(0, 1), top[1].flatten(0, 1))
        put_entries(distance_BK, wanted, distance_N.view(len(wanted), -1))
    return distance_BK
