"""The loss over candidates against the slow, obvious one over the whole vocabulary."""

from __future__ import annotations

import torch

from adasd.distill.loss import distance

N, K, V, W = 6, 3, 40, 8


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    hidden = torch.randn(N, W, requires_grad=True)
    embedding = torch.randn(V, W, requires_grad=True)
    logprobs, ids = torch.randn(N, V).mul(2).log_softmax(-1).topk(K)
    return hidden, embedding, ids, logprobs


def obvious(hidden, embedding, ids, logprobs, first_weight: float) -> torch.Tensor:
    draft = (hidden @ embedding.T).log_softmax(-1).gather(1, ids)
    kl = (logprobs.exp() * (logprobs - draft)).sum(-1)
    return ((1 - first_weight) * kl - first_weight * draft[:, 0]).mean()


def gradients(loss: torch.Tensor, *of: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(loss, of)


def test_with_every_token_among_the_candidates_it_is_exact() -> None:
    hidden, embedding, _, _ = inputs()
    logprobs, ids = torch.randn(N, V).log_softmax(-1).topk(V)  # whoever is thought of is a candidate
    ours = distance(hidden, embedding, ids, logprobs, first_weight=0.3)
    theirs = obvious(hidden, embedding, ids, logprobs, 0.3)
    torch.testing.assert_close(ours, theirs)
    for one, other in zip(
        gradients(ours, hidden, embedding), gradients(theirs, hidden, embedding), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_a_sample_of_the_others_stands_for_all_of_them() -> None:
    hidden, embedding, ids, logprobs = inputs()
    ours = distance(hidden, embedding, ids, logprobs, num_negatives=400_000)
    theirs = obvious(hidden, embedding, ids, logprobs, 0.5)
    torch.testing.assert_close(ours, theirs, rtol=0.01, atol=0.0)
    for one, other in zip(
        gradients(ours, hidden, embedding), gradients(theirs, hidden, embedding), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0.0, atol=0.01)
