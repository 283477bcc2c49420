"""How far a draft is from its target: forward KL on the target's most probable tokens, and its first choice.

The head is most of a small model, so it is computed for tokens that the target thought of somewhere in the
batch, and for a random sample of all others, which stands for the rest in the sum over the vocabulary.
The gradient is written out: it is the draft's probabilities less the target's.
Shapes: N places, K tokens that the target thought of, C candidates, W width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NUM_NEGATIVES = 1024
_LEAST = 1e-30  # a probability whose logarithm is still finite in float32


def distance(
    hidden_NW: Tensor,
    embedding_VW: Tensor,
    top_ids_NK: Tensor,
    top_logprobs_NK: Tensor,
    *,
    first_weight: float = 0.5,
    num_negatives: int = NUM_NEGATIVES,
) -> Tensor:
    """Mean over places of ``(1 - first_weight) * KL + first_weight * cross entropy``, in nats, a scalar."""
    candidates_C, columns_NK, log_weights_C = candidates(top_ids_NK, len(embedding_VW), num_negatives)
    target_NK = top_logprobs_NK.exp() * (1 - first_weight)
    entropy = (target_NK * top_logprobs_NK).sum(-1).mean()
    target_NK[:, 0] += first_weight
    rows_CW = embedding_VW[candidates_C]
    cross: Any = _CrossEntropy.apply
    crossed: Tensor = cross(hidden_NW, rows_CW, columns_NK, target_NK, log_weights_C)
    return entropy + crossed


def candidates(top_ids_NK: Tensor, vocab_size: int, num_negatives: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ids (C,), where each of the K tokens stands among them (N, K), and the log of what each counts (C,)."""
    wanted, columns = top_ids_NK.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    others = torch.ones(vocab_size, dtype=torch.bool, device=wanted.device)
    others[wanted] = False
    rest = others.nonzero()[:, 0]
    drawn = rest[torch.randint(max(1, len(rest)), (num_negatives if len(rest) else 0,), device=rest.device)]
    log_weights_C = torch.zeros(len(wanted) + len(drawn), device=wanted.device)
    if len(drawn):
        log_weights_C[len(wanted) :] = torch.tensor(len(rest) / len(drawn)).log()
    return torch.cat([wanted, drawn]), columns, log_weights_C


class _CrossEntropy(torch.autograd.Function):
    """Mean over places of ``-sum_k target * log(draft)``; products in the type of ``hidden``."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NW: Tensor,
        rows_CW: Tensor,
        columns_NK: Tensor,
        target_NK: Tensor,
        log_weights_C: Tensor,
    ) -> Tensor:
        rows_CW = rows_CW.to(hidden_NW.dtype)
        draft_NC = (hidden_NW @ rows_CW.T).float().add_(log_weights_C).softmax(-1)
        loss = -(target_NK * draft_NC.gather(1, columns_NK).clamp(min=_LEAST).log()).sum(-1).mean()
        gradient_NC = draft_NC.mul_(target_NK.sum(-1, keepdim=True)).scatter_add_(1, columns_NK, -target_NK)
        ctx.save_for_backward(hidden_NW, rows_CW, gradient_NC.to(hidden_NW.dtype))
        return loss

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        hidden_NW, rows_CW, gradient_NC = ctx.saved_tensors
        scale = outer / len(hidden_NW)
        hidden_gradient = (gradient_NC @ rows_CW) * scale
        rows_gradient = (gradient_NC.T @ hidden_NW).float() * scale
        return hidden_gradient.to(hidden_NW.dtype), rows_gradient, None, None, None
