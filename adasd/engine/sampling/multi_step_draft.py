"""Helpers for multi-step drafts (``adasd.engine.forward.protocol.MultiStepDraft``): which calls, which rule."""

from __future__ import annotations

from dataclasses import replace

from adasd.engine.work import DraftWork
from adasd.rounds import StopRule
from adasd.stop_rule import rest_of


def takes_largest(work: DraftWork) -> bool:
    """Whether this call's next token is simply the largest of the raw logits."""
    transform, position = work.transform, work.base_len + len(work.proposed)
    free_to_end = not transform.eos_ids or position >= transform.eos_from
    shaped = transform.logit_bias or work.slot.logits_state is not None
    return transform.greedy and free_to_end and not shaped


def rule_from_here(work: DraftWork) -> StopRule:
    """The call's stop rule for the rest of its block."""
    rule = work.call.rule
    table = rule.table and rest_of(rule.table, work.entropies)
    return replace(rule, max_tokens=rule.max_tokens - len(work.proposed), table=table)
