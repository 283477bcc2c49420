"""When a draft stops, as the target's rule says; for whoever drafts token by token, with a model or without."""

from __future__ import annotations

from adasd.rounds import StopRule


def stops(rule: StopRule, num_drafted: int, entropy: float, max_prob: float) -> bool:
    """Whether drafting ends with the token just drafted (which stays in the block)."""
    return (
        num_drafted >= rule.max_tokens or entropy > rule.entropy_ceiling or max_prob < rule.confidence_floor
    )
