"""Blocks of several sessions as padded tensors, to be judged together.

Shape letters: B sessions, K drafted tokens (the longest block), R entries of a top-k distribution (the longest one).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from adasd.errors import InvalidRequest
from adasd.methods.registry import acceptance_method, check_params, needs_distances
from adasd.rounds import BLOCK, AcceptanceRule, DraftDistributions, SamplingTransform
from adasd.specdec.distributions import Kind, kind_of


@dataclass(frozen=True, slots=True, eq=False)
class BlockBatch:
    """DraftBlock blocks of B sessions, padded to the longest; K and R may be 0."""

    lens: tuple[int, ...]  # tokens per block
    has_distributions: tuple[bool, ...]  # whether the session sent tokens with draft distributions
    tokens_BK: Tensor  # int64, padding 0
    lens_B: Tensor  # int64, as ``lens``
    top_ids_BKR: Tensor  # int64, padding 0
    top_logprobs_BKR: Tensor  # float32, padding minus infinity

    @classmethod
    def pack(
        cls,
        blocks: Sequence[Sequence[int]],
        rows: Sequence[DraftDistributions | None],
        device: torch.device | str = "cpu",
    ) -> BlockBatch:
        """Pad blocks and their draft distributions, if any, which ``check_block`` must have accepted."""
        lens = tuple(len(block) for block in blocks)
        sent = [distributions if length else None for distributions, length in zip(rows, lens, strict=True)]
        longest = max(lens, default=0)
        row_len = max(
            (distributions.ids.shape[1] for distributions in sent if distributions is not None), default=0
        )
        tokens = np.zeros((len(lens), longest), np.int64)
        row_ids = np.zeros((len(lens), longest, row_len), np.int64)
        row_logprobs = np.full(row_ids.shape, -np.inf, np.float32)
        for b, (block, distributions) in enumerate(zip(blocks, sent, strict=True)):
            tokens[b, : len(block)] = block
            if distributions is not None:
                row_ids[b, : lens[b], : distributions.ids.shape[1]] = distributions.ids
                row_logprobs[b, : lens[b], : distributions.ids.shape[1]] = distributions.logprobs
        return cls(
            lens,
            tuple(distributions is not None for distributions in sent),
            torch.from_numpy(tokens).to(device),
            torch.tensor(lens, dtype=torch.int64, device=device),
            torch.from_numpy(row_ids).to(device),
            torch.from_numpy(row_logprobs).to(device),
        )


def check_block(
    transform: SamplingTransform,
    block: Sequence[int],
    rows: DraftDistributions | None,
    rule: AcceptanceRule,
    vocab_size: int,
) -> None:
    """Raise InvalidRequest if the block cannot be judged.

    Reasons: an id out of range, an unknown rule or parameter, missing distributions or distributions of wrong shape.
    """
    for token in block:
        if not 0 <= token < vocab_size:
            raise InvalidRequest(f"drafted token {token} is outside the target's {vocab_size} ids", "block")
    sampled = kind_of(transform) is Kind.SAMPLED
    if rule.name == BLOCK and not sampled:
        raise InvalidRequest(
            "block verification acts on rejection sampling, which a greedy or seeded session does not do; use another "
            "rule, or sample without a seed",
            "rule",
        )
    if not rule.is_exact:
        check_params(acceptance_method(rule.name), rule.params)
    if not rule.max_distortion >= 0:
        raise InvalidRequest(f"max_distortion is {rule.max_distortion}; it must be 0 or more", "rule")
    if not block:
        return
    if rows is None:
        if sampled or needs_distances(rule):
            raise InvalidRequest(
                f"a block of {len(block)} tokens came without draft rows, which sampling without a seed, "
                "relaxation by distance and distances need; set StopRule.row_len",
                "rows",
            )
        return
    _check_rows(block, rows, sampled, vocab_size)


def _check_rows(block: Sequence[int], rows: DraftDistributions, sampled: bool, vocab_size: int) -> None:
    ids, logprobs = rows.ids, rows.logprobs
    if ids.ndim != 2 or ids.shape != logprobs.shape or ids.shape[0] != len(block) or ids.shape[1] == 0:
        raise InvalidRequest(
            f"rows of shape {ids.shape} and {logprobs.shape} do not fit a block of {len(block)} tokens; "
            "send one row of at least one entry per token",
            "rows",
        )
    if ids.min() < 0 or ids.max() >= vocab_size:
        raise InvalidRequest(f"a draft row names an id outside the target's {vocab_size} ids", "rows")
    if np.isnan(logprobs).any() or logprobs.max() > 1e-3:
        raise InvalidRequest("a draft row holds a log-probability that is positive or no number", "rows")
    if sampled and not ((ids == np.asarray(block)[:, None]) & (logprobs > -np.inf)).any(axis=1).all():
        raise InvalidRequest(
            "a drafted token is missing from its own row, which it was to be drawn from", "rows"
        )
