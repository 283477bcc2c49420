"""The sampling transform: how logits become the distribution that both models sample from.

Order: penalties (``penalties``), bias, grammar, forbidden end-of-sequence (``masked_logits``), temperature,
top-k, top-p, min-p (``transformed_probs``). Entropy and Jensen-Shannon distance are computed after the masks and at
temperature 1.
Shape letters: N positions (of all sessions), B sessions, J positions of a block, R entries of a top-k distribution,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from adasd.rounds import SamplingTransform


class Kind(Enum):
    """How a session's tokens are chosen; it decides the exact test."""

    GREEDY = "greedy"  # the largest logit
    COUPLED = "coupled"  # shared noise under a seed
    SAMPLED = "sampled"  # the worker's generator


def kind_of(transform: SamplingTransform) -> Kind:
    """Temperature 0 is greedy, with or without a seed."""
    if transform.greedy:
        return Kind.GREEDY
    return Kind.SAMPLED if transform.seed is None else Kind.COUPLED


@dataclass(frozen=True, slots=True, eq=False)
class TransformBatch:
    """Transforms of N positions as tensors [N], with copies on the host, so that reading them needs no sync."""

    transforms: tuple[SamplingTransform, ...]
    kinds: tuple[Kind, ...]
    temperature_N: Tensor  # float32, 1 if greedy
    top_p_N: Tensor  # float32
    min_p_N: Tensor  # float32
    top_k_N: Tensor  # int64, 0 keeps all
    seed_N: Tensor  # int64, the 64 bits of the seed; 0 without one
    position_N: Tensor  # int64, absolute position of the token that the distribution is for

    @classmethod
    def build(
        cls,
        transforms: Sequence[SamplingTransform],
        positions: Sequence[int],
        device: torch.device | str = "cpu",
    ) -> TransformBatch:
        """One entry per transform; ``positions`` are absolute, counting the prompt."""
        reals = [[w.temperature or 1.0, w.top_p, w.min_p] for w in transforms]
        whole = [[w.top_k, signed_seed(w.seed or 0), p] for w, p in zip(transforms, positions, strict=True)]
        temperature_N, top_p_N, min_p_N = (
            torch.tensor(reals, dtype=torch.float32, device=device).reshape(-1, 3).T.contiguous()
        )
        top_k_N, seed_N, position_N = (
            torch.tensor(whole, dtype=torch.int64, device=device).reshape(-1, 3).T.contiguous()
        )
        kinds = tuple(map(kind_of, transforms))
        return cls(tuple(transforms), kinds, temperature_N, top_p_N, min_p_N, top_k_N, seed_N, position_N)

    def select(self, rows: Sequence[int]) -> TransformBatch:
        """The given entries, in that order."""
        if len(rows) == len(self.transforms) and all(n == row for n, row in enumerate(rows)):
            return self
        index = torch.tensor(rows, dtype=torch.int64, device=self.position_N.device)
        return TransformBatch(
            tuple(self.transforms[row] for row in rows),
            tuple(self.kinds[row] for row in rows),
            self.temperature_N[index],
            self.top_p_N[index],
            self.min_p_N[index],
            self.top_k_N[index],
            self.seed_N[index],
            self.position_N[index],
        )

    def expand(self, num_positions: int) -> TransformBatch:
        """Every entry ``num_positions`` times, at positions p, p + 1, ...: N -> N * J, session by session."""
        num_rows = len(self.transforms)
        each = self.select([row for row in range(num_rows) for _ in range(num_positions)])
        step = torch.arange(num_positions, device=self.position_N.device).repeat(num_rows)
        return replace(each, position_N=each.position_N + step)

    def indices_of(self, *kinds: Kind) -> list[int]:
        """Indices of the entries of these kinds."""
        return [row for row, kind in enumerate(self.kinds) if kind in kinds]


def masked_logits(
    logits_NV: Tensor, transforms: Sequence[SamplingTransform], positions: Sequence[int]
) -> Tensor:
    """Float32 logits with bias added and, before ``eos_from``, end-of-sequence at minus infinity.

    The caller has applied penalties and grammars. If a grammar allows nothing but end-of-sequence, that stays
    allowed. The input is not changed; float32 input is returned itself if there is nothing to do.
    Ids beyond V are ignored.
    """
    rows = list(zip(range(len(transforms)), transforms, positions, strict=True))
    biased = [(row, token, bias) for row, transform, _ in rows for token, bias in transform.logit_bias]
    early = [(row, transform) for row, transform, at in rows if transform.eos_ids and at < transform.eos_from]
    if not biased and not early:
        return logits_NV.float()
    vocab_size, device = logits_NV.shape[-1], logits_NV.device
    masked_NV = logits_NV.to(torch.float32, copy=True)
    biased = [edit for edit in biased if edit[1] < vocab_size]
    if biased:
        where = torch.tensor([edit[:2] for edit in biased], device=device).T
        amount = torch.tensor([edit[2] for edit in biased], dtype=torch.float32, device=device)
        masked_NV.index_put_((where[0], where[1]), amount, accumulate=True)
    ended = [
        (row, token)
        for row, transform in early
        if transform.grammar is None or not _must_end(masked_NV[row], transform)
        for token in transform.eos_ids
        if token < vocab_size
    ]
    if ended:
        where = torch.tensor(ended, device=device).T
        masked_NV[where[0], where[1]] = -torch.inf
    return masked_NV


def _must_end(masked_V: Tensor, transform: SamplingTransform) -> bool:
    """Whether the grammar allows nothing but end-of-sequence, which is then allowed even before ``eos_from``."""
    open_V = masked_V > -torch.inf
    open_V[[token for token in transform.eos_ids if token < len(masked_V)]] = False
    return not bool(open_V.any())


def masked_block_logits(
    logits_BJV: Tensor, transforms: Sequence[SamplingTransform], base_lens: Sequence[int]
) -> Tensor:
    """``masked_logits`` of whole blocks: entry (b, i) is at position ``base_lens[b] + i``."""
    num_positions = logits_BJV.shape[1]
    transforms_N = [transform for transform in transforms for _ in range(num_positions)]
    positions_N = [base + i for base in base_lens for i in range(num_positions)]
    return masked_logits(logits_BJV.flatten(0, 1), transforms_N, positions_N).view(logits_BJV.shape)


def transformed_probs(masked_logits_NV: Tensor, batch: TransformBatch) -> Tensor:
    """The distribution to sample from, [N, V] float32, summing to 1 over V; greedy: a point mass.

    As transformers' TopK-, TopP- and MinPLogitsWarper, except that logits equal to the smallest one that
    top-p keeps stay too (as in top-k). Each distribution is independent of the rest of the batch.
    """
    greedy = batch.indices_of(Kind.GREEDY)
    if len(greedy) == len(batch.transforms):
        return _point_mass(masked_logits_NV)
    vocab_size = masked_logits_NV.shape[-1]
    drawn = [(row, transform) for row, transform in enumerate(batch.transforms) if not transform.greedy]
    logits_NV = masked_logits_NV
    if any(transform.temperature != 1.0 for _, transform in drawn):
        logits_NV = _tempered(logits_NV, batch)
    logits_NV = _on_rows(_top_k, logits_NV, batch, [r for r, w in drawn if 0 < w.top_k < vocab_size])
    logits_NV = _on_rows(_top_p, logits_NV, batch, [r for r, w in drawn if w.top_p < 1.0])
    logits_NV = _on_rows(_min_p, logits_NV, batch, [r for r, w in drawn if w.min_p > 0.0])
    probs_NV = torch.softmax(logits_NV, dim=-1)
    if greedy:
        probs_NV[greedy] = _point_mass(masked_logits_NV[greedy])
    return probs_NV


def truncate_row(masked_logits_NV: Tensor, row_len: int) -> tuple[Tensor, Tensor]:
    """The R = min(row_len, V) likeliest tokens: ids [N, R] int32 and log-probabilities [N, R] float32.

    Log-probabilities are those of the full distribution at temperature 1, in falling order; ties by id.
    """
    ids_NR = masked_logits_NV.topk(min(row_len, masked_logits_NV.shape[-1]), dim=-1, sorted=False).indices
    ids_NR = ids_NR.sort(dim=-1).values
    logits_NR, order_NR = masked_logits_NV.gather(-1, ids_NR).sort(dim=-1, descending=True, stable=True)
    logprobs_NR = logits_NR - masked_logits_NV.logsumexp(-1, keepdim=True)
    return ids_NR.gather(-1, order_NR).to(torch.int32), logprobs_NR


def top_k_probs(top_logprobs_NR: Tensor, batch: TransformBatch) -> Tensor:
    """The sampling transform of top-k distributions, [N, R].

    An unseeded draft samples from the result, so it is the complete proposal distribution for rejection sampling.
    Entries at minus infinity (forbidden, padding) get 0.
    """
    return transformed_probs(top_logprobs_NR, batch)


def signed_seed(seed: int) -> int:
    """The low 64 bits as a signed number, for torch.int64."""
    return ((seed + 2**63) % 2**64) - 2**63


def _point_mass(logits_NV: Tensor) -> Tensor:
    return F.one_hot(logits_NV.argmax(dim=-1), logits_NV.shape[-1]).float()


def _tempered(logits_NV: Tensor, batch: TransformBatch) -> Tensor:
    """Logits over temperature; the largest is shifted to 0 first, so that nothing overflows."""
    temperature_N1 = batch.temperature_N[:, None].clamp_min(torch.finfo(torch.float32).tiny)
    return (logits_NV - logits_NV.amax(-1, keepdim=True)) / temperature_N1


def _on_rows(
    keep: Callable[[Tensor, TransformBatch], Tensor],
    logits_NV: Tensor,
    batch: TransformBatch,
    rows: list[int],
) -> Tensor:
    """Logits with those that ``keep`` drops at minus infinity, at the given indices only."""
    if not rows:
        return logits_NV
    if len(rows) == len(batch.transforms):
        return logits_NV.masked_fill(~keep(logits_NV, batch), -torch.inf)
    some_NV = logits_NV[rows]
    filtered_NV = logits_NV.clone()
    filtered_NV[rows] = some_NV.masked_fill(~keep(some_NV, batch.select(rows)), -torch.inf)
    return filtered_NV


def _top_k(logits_NV: Tensor, batch: TransformBatch) -> Tensor:
    largest_NK = logits_NV.topk(max(transform.top_k for transform in batch.transforms), dim=-1).values
    return logits_NV >= largest_NK.gather(-1, batch.top_k_N[:, None] - 1)


def _top_p(logits_NV: Tensor, batch: TransformBatch) -> Tensor:
    falling_NV = _falling(logits_NV)
    probs_NV = torch.softmax(falling_NV, dim=-1)
    mass_before_NV = probs_NV.cumsum(-1) - probs_NV
    num_kept_N1 = (mass_before_NV < batch.top_p_N[:, None]).sum(-1, keepdim=True).clamp_min(1)
    return logits_NV >= falling_NV.gather(-1, num_kept_N1 - 1)


def _falling(logits_NV: Tensor) -> Tensor:
    """Logits in falling order. On the CPU NumPy sorts 1,000 logits in 2 us, torch in 40."""
    if logits_NV.device.type == "cpu":
        return -torch.from_numpy(np.sort(-logits_NV.numpy(), axis=-1))
    return logits_NV.sort(dim=-1, descending=True).values


def _min_p(logits_NV: Tensor, batch: TransformBatch) -> Tensor:
    return logits_NV >= logits_NV.amax(-1, keepdim=True) + batch.min_p_N[:, None].log()
