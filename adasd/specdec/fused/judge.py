"""``adasd.specdec.verify.judge`` by Triton kernels: a few reads of each row of logits, and no array of probabilities.

Batches with relaxation or block verification go to the torch path, which is also the oracle.
Shape letters: B sessions, K drafted tokens (longest block), J = K + 1 positions of the target, N rows of logits,
V vocabulary, R entries of a top-k distribution, F of the B sessions that are sampled without a seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adasd.methods.registry import needs_distances
from adasd.rounds import TOKEN, AcceptanceRule
from adasd.specdec import verify
from adasd.specdec.blocks import BlockBatch
from adasd.specdec.distributions import Kind, TransformBatch, top_k_probs
from adasd.specdec.fused import kernels
from adasd.specdec.noise import Stream
from adasd.specdec.verify import Judgement, RandomNumbers

LARGEST_BLOCK = 4096
"""Tokens that one step of a kernel reads."""


@dataclass(frozen=True, slots=True, eq=False)
class RowDistributions:
    """What the kernels need to know of each row, [N] each."""

    logits_NV: Tensor
    batch: TransformBatch
    choice_N: Tensor  # int32, the largest logit
    largest_N: Tensor
    log_sum_N: Tensor  # of exp(logit - largest), at temperature 1
    entropy_N: Tensor  # nats, at temperature 1
    collision_N: Tensor  # sum of squared probabilities, at temperature 1
    floor_N: Tensor  # smallest kept (logit - largest) / temperature
    log_kept_N: Tensor  # of the kept mass
    token_prob_N: Tensor  # of the given token

    @classmethod
    def of(cls, logits_NV: Tensor, batch: TransformBatch, tokens_N: Tensor) -> RowDistributions:
        """One kernel over all rows."""
        num_rows, vocab_size = logits_NV.shape
        choice_N = torch.empty(num_rows, dtype=torch.int32, device=logits_NV.device)
        numbers = torch.empty(7, num_rows, dtype=torch.float32, device=logits_NV.device).unbind()
        kernels.distributions_kernel[(num_rows,)](
            logits_NV, batch.temperature_N, batch.top_k_N, batch.top_p_N, batch.min_p_N, tokens_N,
            choice_N, *numbers, vocab_size, BLOCK=_block(vocab_size),
        )  # fmt: skip
        return cls(logits_NV, batch, choice_N, *numbers)

    def coupled_choice(self, rows: Sequence[int]) -> Tensor:
        """The winners of the race with each position's shared noise, at some rows."""
        at, choice = self._at(rows)
        kernels.coupled_kernel[(len(rows),)](
            self.logits_NV, at, *self._shape(at), self.batch.seed_N[at], self.batch.position_N[at],
            int(Stream.TOKEN), choice, self.logits_NV.shape[1], BLOCK=_block(self.logits_NV.shape[1]) // 4,
        )  # fmt: skip
        return choice

    def draw(self, rows_F: Tensor, rejected_FV: Tensor, expo_FV: Tensor) -> Tensor:
        """A draw from (p - rejected)+, or from p where nothing is left, by Exp(1) noise: [F] int32."""
        choice_F = torch.empty(len(rows_F), dtype=torch.int32, device=rows_F.device)
        kernels.draw_kernel[(len(rows_F),)](
            self.logits_NV, rows_F, *self._shape(rows_F), rejected_FV, expo_FV.contiguous(), choice_F,
            self.logits_NV.shape[1], BLOCK=_block(self.logits_NV.shape[1]),
        )  # fmt: skip
        return choice_F

    def distances(self, rows: Sequence[int], top_ids_NR: Tensor, top_logprobs_NR: Tensor) -> Tensor:
        """Jensen-Shannon distances at some rows to as many top-k distributions."""
        at, num_entries = torch.tensor(rows, device=self.logits_NV.device), top_ids_NR.shape[1]
        found = torch.empty(len(rows), dtype=torch.float32, device=self.logits_NV.device)
        kernels.distance_kernel[(len(rows),)](
            self.logits_NV, at, self.largest_N[at], self.log_sum_N[at], top_ids_NR.contiguous(),
            top_logprobs_NR.contiguous(), found, self.logits_NV.shape[1], num_entries,
            BLOCK=1 << (num_entries - 1).bit_length(),
        )  # fmt: skip
        return found

    def _at(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        at = torch.tensor(rows, device=self.logits_NV.device)
        return at, torch.empty(len(rows), dtype=torch.int32, device=at.device)

    def _shape(self, at: Tensor) -> tuple[Tensor, ...]:
        return self.largest_N[at], self.batch.temperature_N[at], self.floor_N[at], self.log_kept_N[at]


def judge(
    masked_logits_BJV: Tensor,
    blocks: BlockBatch,
    batch: TransformBatch,
    rules: Sequence[AcceptanceRule],
    numbers: RandomNumbers,
) -> Judgement:
    """As ``verify.judge``."""
    if any(rule.name != TOKEN for rule in rules):
        return verify.judge(masked_logits_BJV, blocks, batch, rules, numbers)
    num_sessions, num_positions, vocab_size = masked_logits_BJV.shape
    num_drafted, device = num_positions - 1, masked_logits_BJV.device
    distributions = RowDistributions.of(
        masked_logits_BJV.reshape(-1, vocab_size).contiguous(),
        batch.expand(num_positions),
        torch.nn.functional.pad(blocks.tokens_BK, (0, 1)).flatten(),
    )
    choice_BJ = distributions.choice_N.view(num_sessions, num_positions).long()
    if coupled := batch.indices_of(Kind.COUPLED):
        rows = [b * num_positions + j for b in coupled for j in range(num_positions)]
        choice_BJ[coupled] = distributions.coupled_choice(rows).view(len(coupled), num_positions).long()
    ok_BK = choice_BJ[:, :-1] == blocks.tokens_BK
    sampled = batch.indices_of(Kind.SAMPLED)
    top_probs_FKR = _top_k_probs(blocks, batch, sampled)
    if sampled:
        token_prob_FK = distributions.token_prob_N.view(num_sessions, num_positions)[sampled, :-1]
        is_drafted_FKR = blocks.top_ids_BKR[sampled] == blocks.tokens_BK[sampled][..., None]
        ok_BK[sampled] = numbers.accept_FK * (top_probs_FKR * is_drafted_FKR).sum(-1) < token_prob_FK
    at_BK = torch.arange(num_drafted, device=device).expand(num_sessions, num_drafted)
    real_BK = at_BK < blocks.lens_B[:, None]
    num_accepted_B = (real_BK & ok_BK).long().cumprod(dim=1).sum(dim=1)
    judged_BK = real_BK & (at_BK <= num_accepted_B[:, None])
    next_B = choice_BJ.gather(1, num_accepted_B[:, None])[:, 0]
    if sampled:
        num_accepted_F = num_accepted_B[sampled]
        rows_F = torch.tensor(sampled, device=device) * num_positions + num_accepted_F
        rejected_FV = _rejected(blocks, sampled, top_probs_FKR, num_accepted_F, vocab_size)
        next_B[sampled] = distributions.draw(rows_F, rejected_FV, numbers.expo_FV).long()
    return Judgement(
        num_accepted_B,
        next_B,
        torch.zeros_like(ok_BK),
        ok_BK & judged_BK,
        _distances(distributions, blocks, rules).masked_fill(~judged_BK, torch.nan),
        torch.zeros(num_sessions, device=device),
    )


def _top_k_probs(blocks: BlockBatch, batch: TransformBatch, sampled: list[int]) -> Tensor:
    """The draft's transformed top-k distributions, [F, K, R]. Raises ValueError if one is missing."""
    if any(blocks.lens[b] and not blocks.has_distributions[b] for b in sampled):
        raise ValueError("a sampled session's block came without draft rows; see blocks.check_block")
    logprobs_FKR = blocks.top_logprobs_BKR[sampled]
    if not logprobs_FKR.numel():
        return logprobs_FKR
    each = batch.select(sampled).expand(logprobs_FKR.shape[1])
    return top_k_probs(logprobs_FKR.flatten(0, 1), each).view(logprobs_FKR.shape)


def _rejected(
    blocks: BlockBatch, sampled: list[int], top_probs_FKR: Tensor, num_accepted_F: Tensor, vocab_size: int
) -> Tensor:
    """The draft's probabilities [F, V] at the rejected position; zeros where every token was accepted."""
    rejected_FV = torch.zeros(len(sampled), vocab_size, device=num_accepted_F.device)
    if not top_probs_FKR.numel():
        return rejected_FV
    index_F = torch.arange(len(sampled), device=num_accepted_F.device)
    at_F = num_accepted_F.clamp_max(top_probs_FKR.shape[1] - 1)
    all_stand_F1 = (num_accepted_F >= blocks.lens_B[sampled])[:, None]
    probs_FR = top_probs_FKR[index_F, at_F].masked_fill(all_stand_F1, 0.0)
    return rejected_FV.scatter_add_(-1, blocks.top_ids_BKR[sampled][index_F, at_F], probs_FR)


def _distances(
    distributions: RowDistributions, blocks: BlockBatch, rules: Sequence[AcceptanceRule]
) -> Tensor:
    """As ``verify``'s: where the rule needs them; NaN elsewhere."""
    num_sessions, num_drafted = blocks.tokens_BK.shape
    distance_BK = torch.full((num_sessions, num_drafted), torch.nan, device=blocks.tokens_BK.device)
    wanted = [b for b, sent in enumerate(blocks.has_distributions) if sent and needs_distances(rules[b])]
    if wanted:
        rows = [b * (num_drafted + 1) + k for b in wanted for k in range(num_drafted)]
        found = distributions.distances(
            rows, blocks.top_ids_BKR[wanted].flatten(0, 1), blocks.top_logprobs_BKR[wanted].flatten(0, 1)
        )
        distance_BK[wanted] = found.view(len(wanted), num_drafted)
    return distance_BK


def _block(vocab_size: int) -> int:
    return max(16, min(LARGEST_BLOCK, 1 << (vocab_size - 1).bit_length()))
