"""Drafting several tokens of a block in one go, where the forward pass can do that by itself.

A drafted token of a small model costs less to compute than the bookkeeping of a step costs in Python. So sessions
that can (``Drafter.drafts``) stay in the forward pass for some tokens; then all of them pass through the engine's
books, token by token. The fast twin of steps with ``sampler.propose_next``. The C kernels serve plain
greedy sessions until the first of them is to stop; ``static_forward`` all that have no history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, cast

import torch

from adasd.engine.cache.kv_cache import KVCache
from adasd.engine.forward.batch import ForwardBatch
from adasd.engine.forward.modules import Forward
from adasd.engine.work import DraftWork, Piece, Proposed, Work
from adasd.rounds import StopRule

LONGEST, SHARED = 16, 4
"""Passes of one burst at most: nobody else has something to do, or others wait for its end."""


class Drafter(Protocol):
    """A forward pass that can go on with what it drafts."""

    def drafts(self, work: DraftWork) -> bool:
        """Whether it can draft for this call."""
        ...

    def draft(
        self,
        batch: ForwardBatch,
        cache: KVCache,
        works: Sequence[DraftWork],
        vocab_size: int,
        limit: int,
        generator: torch.Generator,
    ) -> list[list[Proposed | None]]:
        """Pass by pass one token of every session, None from its end on; at most ``limit`` passes.

        Only ids below ``vocab_size`` are drafted. Entropies are NaN where logits are not finite. Second choices are
        told if one of the sessions asks for them.
        """
        ...


def drafter(forward: Forward) -> Drafter | None:
    """The forward pass, if it can."""
    return cast("Drafter", forward) if hasattr(forward, "draft") else None


def is_quick(drafter: Drafter, work: Work, piece: Piece) -> bool:
    """Whether this call is to draft in a burst from this piece on."""
    return isinstance(work, DraftWork) and bool(piece.num_logits) and drafter.drafts(work)


def takes_largest(work: DraftWork) -> bool:
    """Whether this call draws its next token from nothing but the logits, and takes the largest."""
    transform, position = work.transform, work.base_len + len(work.proposed)
    free_to_end = not transform.eos_ids or position >= transform.eos_from
    shaped = transform.logit_bias or work.slot.logits_state is not None
    return transform.greedy and free_to_end and not shaped and not work.call.rule.row_len


def rule_from_here(work: DraftWork) -> StopRule:
    """The call's rule, without the tokens that it has drafted already."""
    rule = work.call.rule
    return replace(rule, max_tokens=rule.max_tokens - len(work.proposed))
