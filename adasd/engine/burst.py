"""Drafting several tokens of a block in one go, where the forward pass can do that by itself.

A drafted token of a small model costs less to compute than the bookkeeping of a step costs in Python. So sessions
that draft plainly (greedily, with nothing that shapes their law) stay in the forward pass until the first of them
is to stop; then all of them pass through the engine's books again, token by token. The fast twin of a step with
``adasd.engine.sampling.propose_greedily``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, cast

from adasd.engine.forward import Forward
from adasd.engine.kv_cache import KVCache
from adasd.engine.ragged import Ragged
from adasd.engine.work import DraftWork, Piece, Proposed, Work
from adasd.messages import DraftRule

LONGEST, SHARED = 16, 4
"""Passes of one burst at most: nobody else has something to do, or others wait for its end."""


class Drafter(Protocol):
    """A forward pass that can go on with what it drafts."""

    def draft(
        self, batch: Ragged, cache: KVCache, rules: Sequence[DraftRule], vocab_size: int, limit: int
    ) -> list[list[Proposed]]:
        """One greedy token of every session per pass, until the first is to stop; rules count from here.

        Entropies are NaN where logits are not finite.
        """
        ...


def drafter(forward: Forward) -> Drafter | None:
    """The forward pass, if it can."""
    return cast("Drafter", forward) if hasattr(forward, "draft") else None


def is_plain(work: Work, piece: Piece) -> bool:
    """Whether this call draws its next token from nothing but the logits, and takes the largest."""
    if not isinstance(work, DraftWork) or not piece.num_logits:
        return False
    warp, position = work.warp, work.base_len + len(work.proposed)
    free_to_end = not warp.eos_ids or position >= warp.eos_from
    shaped = warp.logit_bias or work.slot.history is not None
    return warp.greedy and free_to_end and not shaped and not work.call.rule.row_len


def rule_from_here(work: DraftWork) -> DraftRule:
    """The call's rule, without the tokens that it has drafted already."""
    rule = work.call.rule
    return replace(rule, max_tokens=rule.max_tokens - len(work.proposed))
