"""The exact tests, one per kind of session, and the target's token that follows.

Shape letters: B sessions, K drafted tokens (longest block), J = K + 1 positions of the target, N = positions of all
blocks flattened, V vocabulary, R entries of a top-k distribution, F of the B sessions that are sampled without a seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from adasd.specdec.blocks import BlockBatch
from adasd.specdec.distributions import Kind, TransformBatch, top_k_probs, transformed_probs
from adasd.specdec.noise import coupled_argmax


@dataclass(frozen=True, slots=True, eq=False)
class ExactTest:
    """The outcome at every drafted position, as if all tokens before it had been accepted."""

    ok_BK: Tensor  # bool: the exact test passes
    allowed_BK: Tensor  # bool: the token has a chance in the target's transformed distribution
    choice_BJ: Tensor  # int64: the target's own token; 0 for sampled sessions
    rejection: RejectionSampling | None  # the sampled sessions, if there are any

    @classmethod
    def of(
        cls, masked_logits_BJV: Tensor, blocks: BlockBatch, batch: TransformBatch, accept_FK: Tensor
    ) -> ExactTest:
        """Greedy and seeded: whether the drafted token is the target's own choice. Sampled: rejection sampling.

        A greedy distribution is a point mass, so there ``allowed_BK`` only excludes tokens that a mask forbids.
        """
        drafted_BK1 = blocks.tokens_BK[..., None]
        choice_BJ = torch.zeros_like(masked_logits_BJV[..., 0], dtype=torch.int64)
        if batch.indices_of(Kind.GREEDY):
            choice_BJ = masked_logits_BJV.argmax(dim=-1)
        allowed_BK = masked_logits_BJV[:, :-1].gather(-1, drafted_BK1)[..., 0] > -torch.inf
        if coupled := batch.indices_of(Kind.COUPLED):
            choice_BJ[coupled], probs = _coupled_choice(masked_logits_BJV[coupled], batch.select(coupled))
            allowed_BK[coupled] = probs[:, :-1].gather(-1, drafted_BK1[coupled])[..., 0] > 0
        ok_BK = choice_BJ[:, :-1] == blocks.tokens_BK
        rejection = RejectionSampling.of(masked_logits_BJV, blocks, batch)
        if rejection is not None:
            ok_BK[rejection.indices] = rejection.accepts(accept_FK)
            allowed_BK[rejection.indices] = rejection.target_prob_FK > 0
        return cls(ok_BK, allowed_BK, choice_BJ, rejection)

    def next_token(self, num_accepted_B: Tensor, expo_FV: Tensor, scale_FK: Tensor | None) -> Tensor:
        """The target's token after ``num_accepted_B`` tokens, [B]: its own choice, or a draw.

        ``scale_FK``: factor of the target's probabilities where a rejected token is replaced; None is 1.
        """
        token_B = self.choice_BJ.gather(1, num_accepted_B[:, None])[:, 0]
        if self.rejection is not None:
            indices = self.rejection.indices
            token_B[indices] = self.rejection.next_token(num_accepted_B[indices], expo_FV, scale_FK)
        return token_B

    def offered_nothing(self) -> Tensor:
        """Zeros for every entry of the sampled sessions' top-k distributions, [F, K, R]."""
        if self.rejection is None:
            return self.ok_BK.new_zeros((0, 0, 0), dtype=torch.float32)
        return torch.zeros_like(self.rejection.top_probs_FKR)


def _coupled_choice(masked_logits_BJV: Tensor, batch: TransformBatch) -> tuple[Tensor, Tensor]:
    """The winners [B, J] of the race with each position's shared noise, and the target's distributions [B, J, V]."""
    distributions = batch.expand(masked_logits_BJV.shape[1])
    probs_NV = transformed_probs(masked_logits_BJV.flatten(0, 1), distributions)
    choice_N = coupled_argmax(probs_NV, distributions.seed_N, distributions.position_N)
    return choice_N.view(masked_logits_BJV.shape[:2]), probs_NV.view(masked_logits_BJV.shape)


@dataclass(frozen=True, slots=True, eq=False)
class RejectionSampling:
    """Leviathan et al., arXiv:2211.17192, Algorithm 1, with the transformed top-k distribution as the proposal."""

    indices: list[int]  # which of the B sessions
    lens_F: Tensor  # drafted tokens
    target_probs_FJV: Tensor
    top_ids_FKR: Tensor
    top_probs_FKR: Tensor  # the draft's transformed top-k distribution
    target_prob_FK: Tensor  # of the drafted token
    draft_prob_FK: Tensor  # of the drafted token

    @classmethod
    def of(
        cls, masked_logits_BJV: Tensor, blocks: BlockBatch, batch: TransformBatch
    ) -> RejectionSampling | None:
        """Distributions of both models for the sampled sessions; None if there are none."""
        indices = batch.indices_of(Kind.SAMPLED)
        if not indices:
            return None
        if any(blocks.lens[b] and not blocks.has_distributions[b] for b in indices):
            raise ValueError("a sampled session's block came without draft rows; see blocks.check_block")
        logits_FJV, some = masked_logits_BJV[indices], batch.select(indices)
        target_probs_NV = transformed_probs(logits_FJV.flatten(0, 1), some.expand(logits_FJV.shape[1]))
        target_probs_FJV = target_probs_NV.view(logits_FJV.shape)
        top_probs_FKR = top_logprobs_FKR = blocks.top_logprobs_BKR[indices]
        if top_logprobs_FKR.numel():
            top_probs_FKR = top_k_probs(
                top_logprobs_FKR.flatten(0, 1), some.expand(top_logprobs_FKR.shape[1])
            )
            top_probs_FKR = top_probs_FKR.view(top_logprobs_FKR.shape)
        top_ids_FKR, drafted_FK1 = blocks.top_ids_BKR[indices], blocks.tokens_BK[indices][..., None]
        return cls(
            indices,
            blocks.lens_B[indices],
            target_probs_FJV,
            top_ids_FKR,
            top_probs_FKR,
            target_probs_FJV[:, :-1].gather(-1, drafted_FK1)[..., 0],
            (top_probs_FKR * (top_ids_FKR == drafted_FK1)).sum(dim=-1),
        )

    def accepts(self, uniform_FK: Tensor) -> Tensor:
        """``u < target / draft`` without the division, [F, K] bool."""
        return uniform_FK * self.draft_prob_FK < self.target_prob_FK

    def target_top_probs(self) -> Tensor:
        """The target's probabilities of the tokens in the draft's top-k distributions, [F, K, R]."""
        return self.target_probs_FJV[:, :-1].gather(-1, self.top_ids_FKR)

    def excess(self) -> Tensor:
        """(q - p)+ of the top-k tokens that the target may emit, [F, K, R]: what rejection sampling rejects."""
        target_FKR = self.target_top_probs()
        return (self.top_probs_FKR - target_FKR).clamp_min(0.0) * (target_FKR > 0)

    def next_token(self, num_accepted_F: Tensor, expo_FV: Tensor, scale_FK: Tensor | None = None) -> Tensor:
        """A draw from ``weights`` by the race ``argmax weight / E`` with Exp(1) noise, [F]."""
        expo_FV = expo_FV.clamp_min(torch.finfo(expo_FV.dtype).tiny)
        return (self.weights(num_accepted_F, scale_FK) / expo_FV).argmax(dim=-1)

    def weights(self, num_accepted_F: Tensor, scale_FK: Tensor | None = None) -> Tensor:
        """After a rejection ``max(0, scale target - draft)``, else the target's probabilities; [F, V], unnormalised."""
        index_F = torch.arange(len(self.indices), device=num_accepted_F.device)
        target_FV = self.target_probs_FJV[index_F, num_accepted_F]
        if scale_FK is not None and scale_FK.shape[1]:
            at_F = num_accepted_F.clamp_max(scale_FK.shape[1] - 1)
            target_FV = target_FV * self._where_rejected(num_accepted_F, scale_FK[index_F, at_F])[:, None]
        residual_FV = (target_FV - self._rejected_probs(num_accepted_F, target_FV)).clamp_min(0.0)
        empty_F1 = residual_FV.sum(dim=-1, keepdim=True) == 0  # possible only by rounding
        return torch.where(empty_F1, target_FV, residual_FV)

    def _where_rejected(self, num_accepted_F: Tensor, scale_F: Tensor) -> Tensor:
        """``scale_F`` where a token was rejected, 1 where all were accepted."""
        return torch.where(num_accepted_F < self.lens_F, scale_F, torch.ones_like(scale_F))

    def _rejected_probs(self, num_accepted_F: Tensor, target_FV: Tensor) -> Tensor:
        """The draft's probabilities [F, V] at the rejected position; zeros where every token was accepted."""
        probs_FV = torch.zeros_like(target_FV)
        if self.top_ids_FKR.numel() == 0:
            return probs_FV
        all_stand_F1 = (num_accepted_F >= self.lens_F)[:, None]
        index_F = torch.arange(len(self.indices), device=num_accepted_F.device)
        at_F = num_accepted_F.clamp_max(self.top_ids_FKR.shape[1] - 1)
        probs_FR = self.top_probs_FKR[index_F, at_F].masked_fill(all_stand_F1, 0.0)
        return probs_FV.scatter_add_(-1, self.top_ids_FKR[index_F, at_F], probs_FR)
