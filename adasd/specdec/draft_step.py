"""One drafted token per session: the draft's proposal and the signals that may stop drafting.

Shape letters: N sessions, R entries of a top-k distribution, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adasd.rounds import SamplingTransform, StopRule
from adasd.specdec.distributions import (
    Kind,
    TransformBatch,
    kind_of,
    top_k_probs,
    transformed_probs,
    truncate_row,
)
from adasd.specdec.divergence import entropy
from adasd.specdec.entries import entries, put_entries
from adasd.specdec.noise import coupled_race


@dataclass(frozen=True, slots=True, eq=False)
class Proposal:
    """The next drafted token of every session."""

    tokens_N: Tensor  # int64
    entropies_N: Tensor  # float32, nats, of the masked distribution at temperature 1
    max_probs_N: Tensor  # float32, largest probability of that distribution
    top_ids_NR: Tensor | None  # int32; None if no session wants distributions
    top_logprobs_NR: Tensor | None  # float32; minus infinity from the session's own row_len on
    runner_ups_N: Tensor | None = None  # int64, second choices; None if not wanted


def check_draft(transform: SamplingTransform, rule: StopRule) -> None:
    """Raise ValueError if an unseeded sampled session drafts without distributions: its exact test needs them."""
    if rule.max_tokens > 0:
        _require_row(kind_of(transform), rule.row_len)


def propose(
    masked_logits_NV: Tensor,
    batch: TransformBatch,
    row_lens: Sequence[int],
    generator: torch.Generator | None = None,
    *,
    want_runner_ups: bool = False,
) -> Proposal:
    """Draft one token per session; with ``want_runner_ups`` also the second choice.

    Greedy: the largest logit. Seeded: the coupled choice from the full transformed distribution. Otherwise: a draw
    from exactly the top-k distribution that will be sent. ``row_lens[n]`` entries are wanted for session n (0: none);
    R is the largest of them. The second choice is the second in the race under a seed, else the likeliest token other
    than the drafted one (no transform changes the order); the drafted token itself if no other is possible. Raises
    ValueError as ``check_draft``.
    """
    for kind, row_len in zip(batch.kinds, row_lens, strict=True):
        _require_row(kind, row_len)
    plain_probs_NV = torch.softmax(masked_logits_NV, dim=-1)
    rows = _truncated(masked_logits_NV, row_lens)
    tokens_N = masked_logits_NV.argmax(dim=-1)
    if coupled := batch.indices_of(Kind.COUPLED):
        some = batch.select(coupled)
        probs = transformed_probs(entries(masked_logits_NV, coupled), some)
        race = coupled_race(probs, some.seed_N, some.position_N)
        put_entries(tokens_N, coupled, race.argmin(dim=-1))
    if rows is not None and (sampled := batch.indices_of(Kind.SAMPLED)):
        ids, logprobs = entries(rows[0], sampled), entries(rows[1], sampled)
        entry = draw(top_k_probs(logprobs, batch.select(sampled)), generator)
        put_entries(tokens_N, sampled, ids.gather(-1, entry[:, None])[:, 0].long())
    runner_ups_N = runner_up(masked_logits_NV, tokens_N, tokens_N) if want_runner_ups else None
    if runner_ups_N is not None and coupled:
        second = runner_up(-race, entries(tokens_N, coupled), entries(runner_ups_N, coupled))
        put_entries(runner_ups_N, coupled, second)
    top_ids_NR, top_logprobs_NR = rows or (None, None)
    max_probs_N = plain_probs_NV.amax(dim=-1)
    return Proposal(tokens_N, entropy(plain_probs_NV), max_probs_N, top_ids_NR, top_logprobs_NR, runner_ups_N)


def runner_up(scores_NV: Tensor, chosen_N: Tensor, otherwise_N: Tensor) -> Tensor:
    """Index of the largest score without the chosen one, [N, V] -> [N]; ``otherwise_N`` if all are minus infinity."""
    best = scores_NV.scatter(-1, chosen_N[:, None], -torch.inf).max(dim=-1)
    return torch.where(best.values > -torch.inf, best.indices, otherwise_N)


def draw(probs_NV: Tensor, generator: torch.Generator | None) -> Tensor:
    """One token per distribution by an exponential race, [N, V] -> [N]; a token with probability 0 never wins."""
    return race(probs_NV, torch.empty_like(probs_NV).exponential_(generator=generator))


def race(probs_NV: Tensor, expo_NV: Tensor) -> Tensor:
    """The winner of p / E with Exp(1) noise E, [N, V] -> [N]."""
    return (probs_NV / expo_NV.clamp_min(torch.finfo(expo_NV.dtype).tiny)).argmax(dim=-1)


def _require_row(kind: Kind, row_len: int) -> None:
    if kind is Kind.SAMPLED and row_len < 1:
        raise ValueError(
            f"a session sampled without a seed drafts from its truncated row, but row_len is {row_len}; "
            "set StopRule.row_len to 1 or more"
        )


def _truncated(masked_logits_NV: Tensor, row_lens: Sequence[int]) -> tuple[Tensor, Tensor] | None:
    """Top-k distributions of each session's own length, padded with minus infinity to the longest."""
    longest = max(row_lens, default=0)
    if longest == 0:
        return None
    ids_NR, logprobs_NR = truncate_row(masked_logits_NV, longest)
    if min(row_lens) < longest:
        own_len_N1 = torch.tensor(row_lens, device=ids_NR.device)[:, None]
        beyond_NR = torch.arange(ids_NR.shape[-1], device=ids_NR.device) >= own_len_N1
        logprobs_NR = logprobs_NR.masked_fill(beyond_NR, -torch.inf)
    return ids_NR, logprobs_NR
