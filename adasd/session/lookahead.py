"""Lookahead: what may be prepared while the target judges a block.

A lookahead is a tuple of branches. A branch is an assumption about the verdict under way, the draft call made on it
and, if the target was asked early, the epoch of that verify call. There are three kinds:

* *Full acceptance*: the draft goes on behind the block. Its first token is its guess at the target's own token, the
  rest is the next block if that guess is right (post-verify in PEARL, arXiv:2408.11850).
* *Likeliest rejection*: the block is rejected where the draft was least sure, and the target's own token there is the
  draft's runner-up. What is drafted behind it is the next block (outcomes of a verification are predicted in
  arXiv:2603.03251, many at once).
* *Decoding on*: nothing is drafted, and the target is asked for the token behind the one that it is at.

``resolve`` keeps the branch that came true. The output never depends on a lookahead: a block that is used was drafted
behind exactly the text that was committed.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import NamedTuple

from adasd.rounds import AcceptRule, Assumption, DraftBlock, DraftDistributions, StopRule, Verdict, VerifyCall
from adasd.session.events import Planned


class Branch(NamedTuple):
    """One assumption about the verdict under way, and what is prepared in case it comes true."""

    base_len: int  # position of the target's own token
    num_accepted: int | None = None  # tokens of the block before it; None: all of the block
    token: int | None = None  # the target's own token; None: not known yet, or whichever it is
    rule: StopRule | None = None  # of the block behind that token; None: nothing is drafted
    draft_epoch: int | None = None  # of the draft call
    is_drafted: bool = False  # that call was answered
    block: DraftBlock | None = None  # the next block; None: not drafted yet, or empty
    elapsed_ms: float = 0.0  # from the draft call to its answer
    verify_epoch: int | None = None  # of the verify call, if the target was asked early

    @property
    def on_its_way(self) -> bool:
        """Is the draft still working on it?"""
        return self.draft_epoch is not None and not self.is_drafted

    def matches(self, base_len: int, token: int) -> bool:
        """Does the target's own token ``token`` at ``base_len`` bear the assumption out, as far as it is known?"""
        if base_len != self.base_len:
            return False
        return token == self.token or (self.token is None and not self.is_drafted)

    def drafted(self, drafted: DraftBlock, elapsed_ms: float) -> Branch:
        """The branch with the draft's answer. Behind a full acceptance its first token is the guess."""
        guesses = self.num_accepted is None
        assert self.rule is not None
        drafted = without_tripping(drafted, self.rule, num_kept=2 if guesses else 1)
        token, block = self.token, drafted
        if guesses and drafted.tokens:
            token, block = drafted.tokens[0], part(drafted, slice(1, None))
            block = replace(block, base_len=drafted.base_len + 1)
        return self._replace(
            token=token, is_drafted=True, block=block if block.tokens else None, elapsed_ms=elapsed_ms
        )

    def early_call(self, session: str, epoch: int, judged_epoch: int, rule: AcceptRule) -> VerifyCall | None:
        """The verify call that would follow the verdict of ``judged_epoch`` if the branch comes true; None for none.

        Nothing depends on whether it is asked early; hence only under a rule that this verdict cannot change.
        """
        if rule.relax or rule.want_distances or self.block is None or self.token is None:
            return None
        assuming = Assumption(judged_epoch, self.token, self.num_accepted)
        return verify_call(session, epoch, self.base_len, (self.token,), self.block, rule, assuming)


Branches = tuple[Branch, ...]


def resolve(branches: Branches, verdict: Verdict) -> Branch | None:
    """The branch that came true, or may still once its block is there; None if none did."""
    base_len = verdict.base_len + verdict.num_accepted
    return next((branch for branch in branches if branch.matches(base_len, verdict.next_token)), None)


def next_branch(
    branches: Branches, block: DraftBlock, plan: Planned, remaining_tokens: int
) -> tuple[Branch, tuple[int, ...], StopRule] | None:
    """What the draft should prepare for next: the branch, the tokens it assumes behind the text, the rule of its call.

    The likelier outcome goes first, and each is prepared for once. ``remaining_tokens`` may be emitted before the
    verdict. None: nothing is left to do, or no token would fit.
    """
    wanted = []
    known = {branch.num_accepted is None for branch in branches}
    if plan.drafts_ahead and True not in known:
        wanted.append(full_acceptance(block, plan.draft, remaining_tokens))
    at = likeliest_rejection(block) if plan.drafts_for_rejection and False not in known else None
    if at is not None:
        goes_first = at.likelihood > prod(block.confidences)
        wanted.insert(0 if goes_first else 1, rejection(block, at, plan.draft, remaining_tokens))
    return next((each for each in wanted if each is not None), None)


def full_acceptance(
    block: DraftBlock, rule: StopRule, remaining_tokens: int
) -> tuple[Branch, tuple[int, ...], StopRule] | None:
    """Draft a guess at the target's own token and a block behind it; the next verdict's own token needs room, too."""
    num_judged = len(block.tokens)
    num_drafted = min(rule.max_tokens, remaining_tokens - num_judged - 2)
    if num_drafted < 1:
        return None
    branch = Branch(block.base_len + num_judged, rule=replace(rule, max_tokens=num_drafted))
    return branch, block.tokens, replace(rule, max_tokens=num_drafted + 1)


class Rejection(NamedTuple):
    """Where a block is likeliest to be rejected."""

    place: int  # index into the block
    token: int  # the draft's runner-up there
    likelihood: (
        float  # that the tokens before are accepted and this one is not, by the draft's own probabilities
    )


def likeliest_rejection(block: DraftBlock) -> Rejection | None:
    """Where the draft expects it; None if it did not tell its runner-up tokens."""
    if not block.tokens or not len(block.runner_ups) == len(block.confidences) == len(block.tokens):
        return None
    likelihoods, before = [], 1.0
    for confidence in block.confidences:
        likelihoods.append(before * (1.0 - confidence))
        before *= confidence
    place = max(range(len(likelihoods)), key=likelihoods.__getitem__)
    if block.runner_ups[place] == block.tokens[place]:
        return None  # it had no choice
    return Rejection(place, block.runner_ups[place], likelihoods[place])


def rejection(
    block: DraftBlock, at: Rejection, rule: StopRule, remaining_tokens: int
) -> tuple[Branch, tuple[int, ...], StopRule] | None:
    """Draft a block behind the runner-up token."""
    num_drafted = min(rule.max_tokens, remaining_tokens - at.place - 2)
    if num_drafted < 1:
        return None
    rule = replace(rule, max_tokens=num_drafted)
    return (
        Branch(block.base_len + at.place, at.place, at.token, rule),
        (*block.tokens[: at.place], at.token),
        rule,
    )


def foreseen(block: DraftBlock | None, verdict: Verdict) -> bool | None:
    """Was the block rejected where the draft expected it, for its runner-up? None if the draft expected nothing."""
    at = likeliest_rejection(block) if block is not None else None
    return None if at is None else (verdict.num_accepted, verdict.next_token) == (at.place, at.token)


# --------------------------------------------------------------------------- calls and parts of blocks


def verify_call(
    session: str,
    epoch: int,
    keep_len: int,
    feed: tuple[int, ...],
    block: DraftBlock | None,
    rule: AcceptRule,
    assuming: Assumption | None = None,
) -> VerifyCall:
    """A call for a verdict on a block (None: plain decoding)."""
    if block is None:
        return VerifyCall(session, epoch, keep_len, feed, rule=rule, assuming=assuming)
    return VerifyCall(
        session, epoch, keep_len, feed, block.tokens, block.distributions, rule, block.confidences, assuming
    )


def without_tripping(drafted: DraftBlock, rule: StopRule, num_kept: int) -> DraftBlock:
    """The block without the token that passed the ceiling, if the rule asks for that; ``num_kept`` always stay.

    What decides is the distribution that the token was drawn from, never the token, so the exact tests stay exact.
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
