"""Blocks and acceptance rules of several sessions as padded tensors, ready to be judged together.

Shape letters: B sessions, K drafted tokens (the longest block), R row entries (the longest row), T bins of
an acceptance table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from adasd.errors import InvalidRequest
from adasd.rounds import (
    NUM_DISTANCE_BINS,
    AcceptRule,
    DraftDistributions,
    RelaxBelow,
    RelaxDivergence,
    RelaxOwnLaw,
    RelaxTable,
    RelaxTolerance,
    SamplingTransform,
)
from adasd.specdec.distributions import Kind, kind_of


@dataclass(frozen=True, slots=True, eq=False)
class BlockBatch:
    """DraftBlock blocks of B sessions, padded to the longest; K and R may be 0."""

    lens: tuple[int, ...]  # tokens per block
    has_rows: tuple[bool, ...]  # did the session send its draft laws (and a token)
    tokens_BK: Tensor  # int64, padding 0
    lens_B: Tensor  # int64, as ``lens``
    row_ids_BKR: Tensor  # int64, padding 0
    row_logprobs_BKR: Tensor  # float32, padding minus infinity

    @classmethod
    def pack(
        cls,
        blocks: Sequence[Sequence[int]],
        rows: Sequence[DraftDistributions | None],
        device: torch.device | str = "cpu",
    ) -> BlockBatch:
        """Blocks and, where there are any, their draft laws; ``check_block`` says if they can be judged."""
        lens = tuple(len(block) for block in blocks)
        sent = [laws if length else None for laws, length in zip(rows, lens, strict=True)]
        longest = max(lens, default=0)
        row_len = max((laws.ids.shape[1] for laws in sent if laws is not None), default=0)
        tokens = np.zeros((len(lens), longest), np.int64)
        row_ids = np.zeros((len(lens), longest, row_len), np.int64)
        row_logprobs = np.full(row_ids.shape, -np.inf, np.float32)
        for b, (block, laws) in enumerate(zip(blocks, sent, strict=True)):
            tokens[b, : len(block)] = block
            if laws is not None:
                row_ids[b, : lens[b], : laws.ids.shape[1]] = laws.ids
                row_logprobs[b, : lens[b], : laws.ids.shape[1]] = laws.logprobs
        return cls(
            lens,
            tuple(laws is not None for laws in sent),
            torch.from_numpy(tokens).to(device),
            torch.tensor(lens, dtype=torch.int64, device=device),
            torch.from_numpy(row_ids).to(device),
            torch.from_numpy(row_logprobs).to(device),
        )


@dataclass(frozen=True, slots=True, eq=False)
class RuleBatch:
    """Acceptance rules of B sessions."""

    rules: tuple[AcceptRule, ...]
    max_distance_B: Tensor  # float32; -1 where the rule is no RelaxBelow
    accept_prob_BT: Tensor  # float32; 0 where the rule is no RelaxTable; T is 0 without any table
    min_ratio_B: Tensor  # float32; inf where the rule is no RelaxOwnLaw
    ceiling_B: Tensor  # float32; inf where the rule is no RelaxOwnLaw
    budget_B: Tensor  # int64; 0 without relaxation
    alone_B: Tensor  # bool: the distance decides in place of the exact test

    @classmethod
    def pack(cls, rules: Sequence[AcceptRule], device: torch.device | str = "cpu") -> RuleBatch:
        """Rules in session order."""
        below = [r.relax.max_distance if isinstance(r.relax, RelaxBelow) else -1.0 for r in rules]
        tables = [r.relax.accept_prob if isinstance(r.relax, RelaxTable) else None for r in rules]
        num_bins = NUM_DISTANCE_BINS if any(tables) else 0
        owns = [r.relax if isinstance(r.relax, RelaxOwnLaw) else None for r in rules]
        probs = [table or (0.0,) * num_bins for table in tables]
        return cls(
            tuple(rules),
            torch.tensor(below, dtype=torch.float32, device=device),
            torch.tensor(probs, dtype=torch.float32, device=device).reshape(len(rules), num_bins),
            torch.tensor([own.min_ratio if own else np.inf for own in owns], device=device),
            torch.tensor([own.ceiling if own else np.inf for own in owns], device=device),
            torch.tensor([r.relax_budget if r.relax else 0 for r in rules], device=device),
            torch.tensor([r.alone for r in rules], dtype=torch.bool, device=device),
        )

    @property
    def draws(self) -> bool:
        """Whether any rule is a table, which takes a random number per token."""
        return self.accept_prob_BT.shape[1] > 0


def needs_distance(rule: AcceptRule) -> bool:
    """Whether the rule asks for d_JS, which takes the draft's rows."""
    return rule.want_distances or isinstance(rule.relax, RelaxBelow | RelaxTable)


def check_block(
    transform: SamplingTransform,
    block: Sequence[int],
    rows: DraftDistributions | None,
    rule: AcceptRule,
    vocab_size: int,
) -> None:
    """Raise InvalidRequest if the block cannot be judged: an id out of range, rows missing or misshapen."""
    for token in block:
        if not 0 <= token < vocab_size:
            raise InvalidRequest(f"drafted token {token} is outside the target's {vocab_size} ids", "block")
    if isinstance(rule.relax, RelaxTable) and len(rule.relax.accept_prob) != NUM_DISTANCE_BINS:
        num_bins = len(rule.relax.accept_prob)
        raise InvalidRequest(f"an acceptance table has {NUM_DISTANCE_BINS} bins, not {num_bins}", "rule")
    if isinstance(rule.relax, RelaxOwnLaw) and not (rule.relax.min_ratio > 0 and 0 < rule.relax.ceiling <= 1):
        raise InvalidRequest(
            f"relaxation by the target's own law has min_ratio {rule.relax.min_ratio} and ceiling "
            f"{rule.relax.ceiling}; the first must be above 0, the second in (0, 1]",
            "rule",
        )
    sampled = kind_of(transform) is Kind.SAMPLED
    _check_rule(rule, sampled)
    if not block:
        return
    if rows is None:
        if sampled or needs_distance(rule):
            raise InvalidRequest(
                f"a block of {len(block)} tokens came without draft rows, which sampling without a seed, "
                "relaxation by distance and distances need; set StopRule.row_len",
                "rows",
            )
        return
    _check_rows(block, rows, sampled, vocab_size)


def _check_rule(rule: AcceptRule, sampled: bool) -> None:
    """Raise InvalidRequest for a rule that this kind of session, or nobody, can follow."""
    needs_sampling = rule.whole_block or isinstance(rule.relax, RelaxTolerance | RelaxDivergence)
    if needs_sampling and not sampled:
        raise InvalidRequest(
            "block verification, tolerance and mentored decoding act on rejection sampling, which a greedy or "
            "seeded session does not do; use another rule, or sample without a seed",
            "rule",
        )
    if rule.whole_block and (rule.relax is not None or rule.alone):
        raise InvalidRequest("block verification is exact and goes with no relaxation; choose one", "rule")
    if rule.alone and not isinstance(rule.relax, RelaxBelow | RelaxTable | None):
        raise InvalidRequest(
            "only a rule by distance can decide in place of the exact test; leave out alone, or relax by distance",
            "rule",
        )
    if not rule.max_distortion >= 0:
        raise InvalidRequest(f"max_distortion is {rule.max_distortion}; it must be 0 or more", "rule")
    if isinstance(rule.relax, RelaxTolerance) and not 0 <= rule.relax.tolerance <= 1:
        raise InvalidRequest(f"the tolerance is {rule.relax.tolerance}; it lies in [0, 1]", "rule")
    if isinstance(rule.relax, RelaxDivergence) and not 0 <= rule.relax.max_divergence < np.inf:
        raise InvalidRequest(
            f"the divergence allowed is {rule.relax.max_divergence} nats; it must be 0 or more", "rule"
        )


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
