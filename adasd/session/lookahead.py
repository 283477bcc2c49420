"""Drafting ahead: the draft prepares for what the verdict may be while the target judges.

Two outcomes are worth it. *All* of the block is accepted: then the first token of what is drafted behind it is the
draft's guess at the token that the target will put there, and the rest is the next block if the guess is right
(arXiv:2408.11850 calls this post-verify). Or the block is *rejected* where the draft was most in doubt, and the
target's own token there is the draft's second choice: then what is drafted behind that is the next block (outcomes of
a verification are predicted in arXiv:2603.03251, many at once). What does not come true is forgotten. The output does
not depend on it: a block that is used was drafted behind exactly the text that was committed.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import NamedTuple

from adasd.rounds import DraftBlock, DraftDistributions, StopRule, Verdict


class Ahead(NamedTuple):
    """A block drafted, or being drafted, for one outcome of the verdict under way."""

    epoch: int
    base_len: int  # position of the target's own token, if it comes true
    rule: StopRule  # of the block behind that token
    token: int | None = None  # the target's own token; None: what the draft drafts first, its guess
    drafted: DraftBlock | None = None  # None: on its way
    elapsed_ms: float = 0.0
    asked: int | None = None  # epoch in which the target was asked to judge it, should it come true

    @property
    def newest(self) -> int | None:
        """The target's own token, as far as it is known."""
        if self.token is not None:
            return self.token
        return self.drafted.tokens[0] if self.drafted is not None and self.drafted.tokens else None

    @property
    def block(self) -> DraftBlock | None:
        """The next block; None if there is nothing behind the target's own token."""
        if self.drafted is None or self.token is not None:
            return self.drafted if self.drafted is not None and self.drafted.tokens else None
        return behind_guess(self.drafted)


class Doubt(NamedTuple):
    """Where a block is likeliest to be rejected."""

    place: int  # index into the block
    token: int  # the draft's second choice there
    likelihood: float  # that the tokens before stand and this one does not, by the draft's own law


def rule_ahead(rule: StopRule, num_judged: int, remaining_tokens: int) -> StopRule | None:
    """The rule for drafting behind a block of ``num_judged`` tokens, guess included; None if no token would fit.

    ``remaining_tokens`` may still be emitted before the verdict. If it accepts everything, it emits one token
    more than the block has, and the next verdict's own token needs its place too.
    """
    next_block = min(rule.max_tokens, remaining_tokens - num_judged - 2)
    return replace(rule, max_tokens=next_block + 1) if next_block >= 1 else None


def rule_instead(rule: StopRule, place: int, remaining_tokens: int) -> StopRule | None:
    """The rule for drafting behind the second choice at ``place``; None if no token would fit."""
    next_block = min(rule.max_tokens, remaining_tokens - place - 2)
    return replace(rule, max_tokens=next_block) if next_block >= 1 else None


def doubt(block: DraftBlock) -> Doubt | None:
    """The likeliest rejection; None if the draft did not say what it would have said instead."""
    if not block.tokens or not len(block.runner_ups) == len(block.confidences) == len(block.tokens):
        return None
    likelihoods, before = [], 1.0
    for confidence in block.confidences:
        likelihoods.append(before * (1.0 - confidence))
        before *= confidence
    place = max(range(len(likelihoods)), key=likelihoods.__getitem__)
    if block.runner_ups[place] == block.tokens[place]:
        return None  # it had no choice
    return Doubt(place, block.runner_ups[place], likelihoods[place])


def expects_rejection(block: DraftBlock, at: Doubt) -> bool:
    """Is a rejection there likelier than that all of the block stands?"""
    return at.likelihood > prod(block.confidences)


def foreseen(block: DraftBlock | None, verdict: Verdict) -> bool | None:
    """Is the block rejected at the draft's greatest doubt, for its second choice? None if it named none."""
    at = doubt(block) if block is not None else None
    if at is None:
        return None
    return (verdict.num_accepted, verdict.next_token) == (at.place, at.token)


def guess_is_right(drafted: DraftBlock, next_token: int) -> bool:
    """Did the draft foresee the token behind the block?"""
    return bool(drafted.tokens) and drafted.tokens[0] == next_token


def behind_guess(drafted: DraftBlock) -> DraftBlock | None:
    """The next block: everything but the guess; None if there is nothing."""
    rest = part(drafted, slice(1, None)) if len(drafted.tokens) > 1 else None
    return rest and replace(rest, base_len=drafted.base_len + 1)


def without_tripping(drafted: DraftBlock, rule: StopRule, num_kept: int) -> DraftBlock:
    """The block without the token that passed the ceiling, if the rule asks for that; ``num_kept`` always stay.

    What decides is the law that the token was drawn from, never the token, so the exact tests stay exact.
    """
    entropies = drafted.entropies
    if not rule.drops_last or len(drafted.tokens) <= num_kept or len(entropies) != len(drafted.tokens):
        return drafted
    return part(drafted, slice(-1)) if entropies[-1] > rule.entropy_ceiling else drafted


def judged_part(block: DraftBlock | None, length: int | None) -> DraftBlock | None:
    """What was judged of a block that the target cut to ``length`` tokens (None: it did not); None for nothing."""
    if block is None or length is None or length >= len(block.tokens):
        return block
    return part(block, slice(length)) if length else None


def part(drafted: DraftBlock, which: slice) -> DraftBlock:
    """Some of a block's tokens with what belongs to them."""
    rows = drafted.distributions
    return replace(
        drafted,
        tokens=drafted.tokens[which],
        entropies=drafted.entropies[which],
        distributions=None if rows is None else DraftDistributions(rows.ids[which], rows.logprobs[which]),
        confidences=drafted.confidences[which],
        runner_ups=drafted.runner_ups[which],
    )


def may_come_true(ahead: Ahead | None, verdict: Verdict) -> bool:
    """Is what was drafted for an outcome still worth anything after this verdict?"""
    if ahead is None or verdict.base_len + verdict.num_accepted != ahead.base_len:
        return False
    on_its_way = ahead.drafted is None and ahead.token is None
    return on_its_way or ahead.newest == verdict.next_token
