"""Drafting under load: if sessions share the target's passes, each judged token costs all of them time.

Wraps any drafting method. The k-th token of a block is accepted with chance S_k and makes the pass longer by the cost
of one more token at the current size; that time would otherwise yield ``rate`` tokens per millisecond. So it is worth
judging iff S_k >= rate * cost, and the method's rule is capped at the last such k. The rule is not changed if the
session is alone on the target, or if more tokens do not make passes longer, as on a large device.
"""

from __future__ import annotations

from dataclasses import replace

from adasd.methods.policy import RoundOutlook
from adasd.rounds import StopRule

BUSY_SHARE = 0.1
"""Ratio of the mean wait for a pass to its time, from which on the target counts as continuously busy."""


def under_load(rule: StopRule, outlook: RoundOutlook) -> StopRule:
    """``rule`` with its block capped at the tokens worth judging, at least 1."""
    need = survival_needed(outlook)
    if need is None or rule.max_tokens < 2:
        return rule
    worth = sum(chance >= need for chance in outlook.survival[: rule.max_tokens])
    return replace(rule, max_tokens=max(1, worth))


def survival_needed(outlook: RoundOutlook) -> float | None:
    """The S_k from which on judging a token pays; None if the target is not shared or times are unknown."""
    sessions = outlook.batch_size
    if not outlook.is_shared or outlook.mean_block is None:
        return None
    size = sessions * (1 + outlook.mean_block)
    now_ms, more_ms = outlook.cost.at(size), outlook.cost.at(size + sessions)
    if now_ms is None or more_ms is None or now_ms <= 0:
        return None
    whole = round(outlook.mean_block)
    tokens = sessions * (1 + sum(outlook.survival[:whole]))
    per_token_ms = (more_ms - now_ms) / sessions
    return per_token_ms * tokens / (now_ms if _is_busy(outlook, now_ms) else _round_ms(outlook, now_ms))


def _is_busy(outlook: RoundOutlook, pass_ms: float) -> bool:
    return outlook.queue_ms is not None and outlook.queue_ms >= BUSY_SHARE * pass_ms


def _round_ms(outlook: RoundOutlook, pass_ms: float) -> float:
    """Wall time of a round: the draft's and the target's."""
    drafting_ms = (outlook.draft_ms or 0.0) * (outlook.mean_block or 0.0) + (outlook.hop_ms or 0.0)
    return pass_ms + drafting_ms
