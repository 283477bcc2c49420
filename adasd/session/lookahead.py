"""Lookahead: work that starts while the target judges a block.

A lookahead is a tuple of branches. A branch is an assumption about the pending verdict, the draft call made on it
and, if the target was called early, the epoch of that verify call. There are three kinds:

* *Full acceptance*: the draft continues after the block. Its first token is its guess at the target's own token, the
  rest is the next block if that guess is right (post-verify in PEARL, arXiv:2408.11850).
* *Likeliest rejection*: the block is rejected where the draft expects it most, and the target's own token there is the
  draft's runner-up. The tokens drafted after it are the next block (arXiv:2603.03251 predicts many outcomes of a
  verification at once).
* *Decoding ahead*: nothing is drafted; the target gets the call for the next token while it computes this one.

``resolve`` keeps the branch that came true. The output never depends on a lookahead: a block is used only if it was
drafted after exactly the committed tokens.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from adasd.rounds import Assumption, DraftBlock, StopRule, Verdict, VerifyCall
from adasd.session.calls import Step, call_draft, part, verify_call, without_token_past_stop
from adasd.session.events import Action, AskVerify, DraftLate, Planned
from adasd.session.state import Branch, Branches, Phase, Session


def look_ahead(session: Session) -> Step:
    """Prepare for the pending verdict: with the draft, one outcome at a time, or by decoding ahead."""
    plan, block = session.plan, session.block
    if session.phase is not Phase.VERIFYING:
        return session, ()
    if block is None:
        return decode_on(session)
    if not session.draft.ready:
        return session, ()
    found = next_branch(session.branches, block, plan, session.remaining_tokens)
    if found is None:
        return session, ()
    branch, behind, rule = found
    session, ask = call_draft(session, behind, rule, optimistic=True)
    counts = session.counts._replace(num_ahead=session.counts.num_ahead + 1)
    branches = (*session.branches, branch._replace(draft_epoch=session.last_epoch))
    return session._replace(branches=branches, counts=counts), (ask,)


def decode_on(session: Session) -> Step:
    """If nothing will be drafted, call the target for the next token before it has returned the current one.

    The same call would follow anyway, so this hides the network hop between two tokens. If the answer ends
    unexpectedly (a stop token), one forward pass for one token is wasted.
    """
    plan = session.plan
    drafts = plan.draft.max_tokens > 0 and session.draft.ready
    if drafts or not plan.asks_early or session.remaining_tokens < 2:
        return session, ()
    base_len, epoch = len(session.committed), session.last_epoch + 1
    call = verify_call(session, epoch, base_len, (), None, Assumption(session.epoch, None))
    branch = Branch(base_len, verify_epoch=epoch)
    return session._replace(last_epoch=epoch, branches=(branch,)), (AskVerify(call),)


def early_call(session: Session, branch: Branch) -> VerifyCall | None:
    """The verify call that would follow if the branch comes true; sent now, it hides a network hop.

    Only under a rule that the pending verdict cannot change, so that the result is the same as without it.
    """
    rule = session.plan.accept
    if (
        not session.plan.asks_early
        or session.phase is not Phase.VERIFYING
        or not rule.is_exact
        or rule.want_distances
    ):
        return None
    if branch.block is None or branch.token is None:
        return None
    assuming = Assumption(session.epoch, branch.token, branch.num_accepted)
    epoch = session.last_epoch + 1
    return verify_call(session, epoch, branch.base_len, (branch.token,), branch.block, assuming)


def keep(session: Session, branch: Branch) -> Step:
    """A branch whose verdict is pending got its block: call the target early, and prepare the next branch."""
    asks: tuple[Action, ...] = ()
    last_epoch = session.last_epoch
    if (call := early_call(session, branch)) is not None:
        asks, last_epoch, branch = (AskVerify(call),), call.epoch, branch._replace(verify_epoch=call.epoch)
    branches = tuple(branch if each.draft_epoch == branch.draft_epoch else each for each in session.branches)
    session, more = look_ahead(session._replace(last_epoch=last_epoch, branches=branches))
    return session, (*asks, *more)


def settle_branches(session: Session, verdict: Verdict) -> Session:
    """Keep only the branch that came true."""
    if not session.branches:
        return session
    came_true, draft, counts = resolve(session.branches, verdict), session.draft, session.counts
    for branch in session.branches:
        if branch is not came_true and branch.on_its_way:
            draft = draft.given_up()  # the next call takes its place
    if came_true is not None and came_true.is_drafted:
        counts = counts._replace(num_ahead_used=counts.num_ahead_used + 1)
    return session._replace(branches=() if came_true is None else (came_true,), draft=draft, counts=counts)


def count_used(session: Session) -> Session:
    return session._replace(counts=session.counts._replace(num_ahead_used=session.counts.num_ahead_used + 1))


def drop_late(session: Session, late: DraftLate) -> Step:
    """Drop the branch whose block is late."""
    kept = tuple(
        each for each in session.branches if not (each.on_its_way and each.draft_epoch == late.epoch)
    )
    if len(kept) < len(session.branches):
        session = session._replace(branches=kept, draft=session.draft.given_up())
    return session, ()


def forget_refused(branches: Branches, epoch: int | None) -> Branches:
    """The branches after the target refused the early call of ``epoch`` (None: all early calls)."""
    branches = tuple(
        branch._replace(verify_epoch=None) if epoch in (None, branch.verify_epoch) else branch
        for branch in branches
    )
    return tuple(branch for branch in branches if branch.draft_epoch or branch.verify_epoch)


# --------------------------------------------------------------------------- branches


def with_block(branch: Branch, drafted: DraftBlock, elapsed_ms: float) -> Branch:
    """The branch with the block from the draft. After a full acceptance, the first token is the guess."""
    guesses = branch.num_accepted is None
    assert branch.rule is not None
    drafted = without_token_past_stop(drafted, branch.rule, num_kept=2 if guesses else 1)
    token, block = branch.token, drafted
    if guesses and drafted.tokens:
        token, block = drafted.tokens[0], part(drafted, slice(1, None))
    block_or_none = block if block.tokens else None
    return branch._replace(token=token, is_drafted=True, block=block_or_none, elapsed_ms=elapsed_ms)


def resolve(branches: Branches, verdict: Verdict) -> Branch | None:
    """The branch that came true, or still may once its block arrives; None if there is none."""
    base_len = verdict.base_len + verdict.num_accepted
    return next((branch for branch in branches if branch.matches(base_len, verdict.next_token)), None)


def next_branch(
    branches: Branches, block: DraftBlock, plan: Planned, remaining_tokens: int
) -> tuple[Branch, tuple[int, ...], StopRule] | None:
    """What the draft prepares next: the branch, the tokens assumed after the committed ones, the rule of its call.

    The likelier outcome comes first, and each is prepared once. ``remaining_tokens`` is counted before the pending
    verdict. None: both are prepared, or no token would fit.
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
    """Draft a guess at the target's own token and a block after it; leaves room for the next verdict's own token."""
    num_judged = len(block.tokens)
    num_drafted = min(rule.max_tokens, remaining_tokens - num_judged - 2)
    if num_drafted < 1:
        return None
    branch = Branch(block.base_len + num_judged, rule=rule.up_to(num_drafted))
    return branch, block.tokens, rule.up_to(num_drafted + 1)


class Rejection(NamedTuple):
    """Where a block is likeliest to be rejected."""

    place: int  # index into the block
    token: int  # the draft's runner-up there
    likelihood: float  # that this is the first rejected token, by the draft's own probabilities


def likeliest_rejection(block: DraftBlock) -> Rejection | None:
    """The most probable place, by the draft's confidences; None if the block has no runner-up tokens."""
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
    """Draft a block after the runner-up token."""
    num_drafted = min(rule.max_tokens, remaining_tokens - at.place - 2)
    if num_drafted < 1:
        return None
    rule = rule.up_to(num_drafted)
    return (
        Branch(block.base_len + at.place, at.place, at.token, rule),
        (*block.tokens[: at.place], at.token),
        rule,
    )


def foreseen(block: DraftBlock | None, verdict: Verdict) -> bool | None:
    """Whether ``likeliest_rejection`` predicted place and token of the verdict; None if it predicted nothing."""
    at = likeliest_rejection(block) if block is not None else None
    return None if at is None else (verdict.num_accepted, verdict.next_token) == (at.place, at.token)
