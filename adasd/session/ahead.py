"""Drafting ahead: the draft goes on while the target judges, as if all of the block will be accepted.

The first token of such a block is the draft's guess at the token that the target will put behind the block. If
the verdict accepts everything and its own token equals the guess, the rest is the next block, drafted for free;
otherwise it is forgotten, and the draft rolls back to what was committed (arXiv:2408.11850 calls this
post-verify). The output does not depend on it: a block that is used was drafted behind exactly the text that
was committed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from adasd.messages import Drafted, DraftRows, DraftRule, Verdict


class Ahead(NamedTuple):
    """A block drafted, or being drafted, behind the one under judgement."""

    epoch: int
    base_len: int  # position of the guess: where the block under judgement ends
    rule: DraftRule  # of the block behind the guess
    drafted: Drafted | None = None  # None: on its way
    elapsed_ms: float = 0.0
    asked: int | None = None  # epoch in which the target was asked to judge it, should it come true


def rule_ahead(rule: DraftRule, num_judged: int, remaining_tokens: int) -> DraftRule | None:
    """The rule for drafting behind a block of ``num_judged`` tokens, guess included; None if no token would fit.

    ``remaining_tokens`` may still be emitted before the verdict. If it accepts everything, it emits one token
    more than the block has, and the next verdict's own token needs its place too.
    """
    next_block = min(rule.max_tokens, remaining_tokens - num_judged - 2)
    return replace(rule, max_tokens=next_block + 1) if next_block >= 1 else None


def guess_is_right(drafted: Drafted, next_token: int) -> bool:
    """Did the draft foresee the token behind the block?"""
    return bool(drafted.tokens) and drafted.tokens[0] == next_token


def behind_guess(drafted: Drafted) -> Drafted | None:
    """The next block: everything but the guess; None if there is nothing."""
    rest = part(drafted, slice(1, None)) if len(drafted.tokens) > 1 else None
    return rest and replace(rest, base_len=drafted.base_len + 1)


def without_tripping(drafted: Drafted, rule: DraftRule, num_kept: int) -> Drafted:
    """The block without the token that passed the ceiling, if the rule asks for that; ``num_kept`` always stay.

    What decides is the law that the token was drawn from, never the token, so the exact tests stay exact.
    """
    entropies = drafted.entropies
    if not rule.drops_last or len(drafted.tokens) <= num_kept or len(entropies) != len(drafted.tokens):
        return drafted
    return part(drafted, slice(-1)) if entropies[-1] > rule.entropy_ceiling else drafted


def judged_part(block: Drafted | None, length: int | None) -> Drafted | None:
    """What was judged of a block that the target cut to ``length`` tokens (None: it did not); None for nothing."""
    if block is None or length is None or length >= len(block.tokens):
        return block
    return part(block, slice(length)) if length else None


def part(drafted: Drafted, which: slice) -> Drafted:
    """Some of a block's tokens with what belongs to them."""
    rows = drafted.rows
    return replace(
        drafted,
        tokens=drafted.tokens[which],
        entropies=drafted.entropies[which],
        rows=None if rows is None else DraftRows(rows.ids[which], rows.logprobs[which]),
        confidences=drafted.confidences[which],
        others=drafted.others[which],
    )


def may_come_true(ahead: Ahead | None, verdict: Verdict, num_judged: int) -> bool:
    """Is what was drafted ahead still worth anything after this verdict?"""
    if ahead is None or verdict.num_accepted < num_judged:
        return False
    return ahead.drafted is None or guess_is_right(ahead.drafted, verdict.next_token)
