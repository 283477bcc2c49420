"""The life of one answer as a protocol without I/O: ``step(session, event) -> (session, actions)``.

    begin ──> ATTACHING ──TargetAttached──> PREFILLING ──verdict──> PLANNING
    PLANNING ──Planned──> DRAFTING ──block, late or lost──> VERIFYING ──verdict──> PLANNING
    PLANNING ──Planned, nothing to draft──────────────────> VERIFYING
    any ──TargetLost──> ATTACHING (prefill of prompt + committed tokens follows)
    any ──last token, Cancel or Fail──> FINISHED

``TRANSITIONS`` has the handler of every event in every phase. While the target judges, branches are prepared for
possible verdicts (adasd.session.lookahead); if one comes true, PLANNING leads straight to VERIFYING, or to DRAFTING for
a block that is on its way. A lost or late draft costs speed, never an answer: the round continues with an empty block,
which is plain decoding. Every call has a new epoch; a reply to any other call is stale and changes nothing. Roll-back
has no message of its own: each call says how many cached tokens to keep, and feeds the rest. The newest committed token
is never cached yet, so after a full acceptance the draft is fed two tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from adasd.errors import IllegalEvent
from adasd.ports import Decode
from adasd.requests import GenerationRequest
from adasd.results import FinishReason, TokenKind
from adasd.rounds import DraftBlock, StopRule
from adasd.session.calls import Step, call_draft, call_target, without_token_past_stop
from adasd.session.emission import emit
from adasd.session.events import (
    AskPlan,
    AttachTarget,
    Cancel,
    DraftAnswered,
    DraftAttached,
    DraftLate,
    DraftLeft,
    DraftLost,
    Emit,
    Event,
    Fail,
    Finish,
    Learn,
    Planned,
    TargetAnswered,
    TargetAttached,
    TargetDeclined,
    TargetLost,
)
from adasd.session.lookahead import (
    count_used,
    drop_late,
    forget_refused,
    keep,
    look_ahead,
    settle_branches,
    with_block,
)
from adasd.session.state import Branch, DraftSide, Phase, Session

MAX_CATCH_UP_TOKENS = 16
"""Committed tokens that a draft's cache may lack when it is asked for a block."""


def begin(
    request: GenerationRequest, eos_ids: frozenset[int], decode: Decode, patience_s: float = math.inf
) -> Step:
    """Start a session. If ``max_tokens`` is 0 it ends at once, unless logprobs of the prompt are wanted.

    ``patience_s``: of its draft calls (adasd.rounds.DraftCall).
    """
    session = Session(request, eos_ids, decode, committed=request.prompt, patience_s=patience_s)
    sampling = request.sampling
    if sampling.max_tokens == 0 and sampling.prompt_logprobs is None:
        return finish(session, FinishReason.LENGTH)
    return session, (AttachTarget(),)


def step(session: Session, event: Event) -> Step:
    """Advance by one event. Raises IllegalEvent if the phase does not allow it."""
    return TRANSITIONS[session.phase][type(event)](session, event)


# --------------------------------------------------------------------------- rounds


def prefill(session: Session, _: TargetAttached) -> Step:
    """Feed a newly attached target all committed tokens."""
    return call_target(session._replace(target_cached=0), phase=Phase.PREFILLING)


def start_round(session: Session, plan: Planned) -> Step:
    """Continue the branch that came true, or draft if the plan allows and the draft is ready, else decode plainly.

    The target never waits for a draft that is busy with another call.
    """
    session, feeds = catch_up(session._replace(plan=plan))
    session, asks = continue_or_draft(session)
    return session, (*feeds, *asks)


def catch_up(session: Session) -> Step:
    """If a block is planned and the draft's cache lags behind, as after plain rounds, feed it while a plain round runs.

    So no round waits for many tokens to be fed, and the measured time of a block is that of drafting. What a slow draft
    missed while it was fed is no reason to feed it again: it would never draft.
    """
    side = session.draft
    if session.plan.draft.max_tokens == 0 or not side.ready:
        return session, ()
    if side.only_fed and len(session.committed) - side.fed_len <= MAX_CATCH_UP_TOKENS:
        return session, ()
    if side.num_missing(session.committed) <= MAX_CATCH_UP_TOKENS:
        return session, ()
    session, ask = call_draft(session, (), StopRule(max_tokens=0))
    return session, (ask,)


def continue_or_draft(session: Session) -> Step:
    """The next call of a round whose plan is known.

    A block that was drafted ahead is judged even if the plan is not to draft: the plan depends on times, and they on
    what was drafted. Dropping it would change what sampling emits.
    """
    plan = session.plan
    branch = session.branches[0] if session.branches else None
    if branch is not None and branch.verify_epoch is not None:  # the target has the call already
        session = session._replace(
            phase=Phase.VERIFYING,
            epoch=branch.verify_epoch,
            block=branch.block,
            block_ms=0.0,
            block_rule=branch.rule,
            asked_early=True,
            branches=(),
        )
        return look_ahead(session)
    if branch is not None and branch.on_its_way and branch.draft_epoch is not None:
        return session._replace(phase=Phase.DRAFTING, epoch=branch.draft_epoch), ()
    if branch is not None and branch.block is not None:
        return ask_target(session, branch.block, 0.0, branch.rule)
    if plan.draft.max_tokens and session.draft.ready:
        return ask_draft(session, plan.draft)
    return ask_target(session)


def ask_draft(session: Session, rule: StopRule) -> Step:
    """Call the draft for a block after the committed tokens."""
    session, ask = call_draft(session, (), rule)
    return session._replace(phase=Phase.DRAFTING, epoch=session.last_epoch, branches=()), (ask,)


def ask_target(
    session: Session, block: DraftBlock | None = None, block_ms: float = 0.0, rule: StopRule | None = None
) -> Step:
    """Call the target for a verdict on a block drafted by ``rule`` (None: plain decoding), and look ahead."""
    session, ask = call_target(session, block, block_ms, rule)
    session, more = look_ahead(session)
    return session, (*ask, *more)


def take_block(session: Session, answered: DraftAnswered) -> Step:
    """A block arrived: judge it if the round waits for it, store it if it belongs to a branch, else drop it."""
    drafted, elapsed_ms = answered.drafted, answered.elapsed_ms
    if drafted.epoch != session.draft.busy:
        return session, ()  # from a draft or a call that this session gave up
    is_awaited = session.phase is Phase.DRAFTING and drafted.epoch == session.epoch
    session = session._replace(draft=session.draft.answered(drafted, len(session.committed)))
    for branch in session.branches:
        if branch.draft_epoch == drafted.epoch:
            arrived = with_block(branch, drafted, elapsed_ms)
            return settle(session, arrived) if is_awaited else keep(session, arrived)
    if not is_awaited:
        return session, ()
    if drafted.base_len != len(session.committed):
        raise IllegalEvent(
            f"the block begins at {drafted.base_len}, the answer ends at {len(session.committed)}"
        )
    if not drafted.tokens:
        return call_target(session)
    rule = session.plan.draft
    return ask_target(session, without_token_past_stop(drafted, rule, num_kept=1), elapsed_ms, rule)


def take_verdict(session: Session, answered: TargetAnswered) -> Step:
    """Commit the verdict's tokens, learn from it, and begin the next round or finish."""
    verdict = answered.verdict
    if verdict.epoch != session.epoch:
        return take_stale_verdict(session, answered)
    session, done, chunk = emit(settle_branches(session, verdict), answered)
    if session.finish_reason is not None:
        return session, (Learn(done), Emit(chunk), Finish(session.finish_reason))
    relaxed = session.counts.of_kind(TokenKind.RELAXED)
    ask = AskPlan(session.remaining_tokens, session.num_emitted, relaxed)
    return session, (Learn(done), Emit(chunk), ask)


def take_stale_verdict(session: Session, answered: TargetAnswered) -> Step:
    """A verdict on a call that this session gave up."""
    if answered.verdict.epoch >= session.epoch:
        return refuse(session, answered)
    return session, ()


def settle(session: Session, branch: Branch) -> Step:
    """The block of a branch arrived after the verdict, and the round waits for it: use it if its guess was right."""
    guessed = branch.token == session.committed[-1]
    session = count_used(session) if guessed else session
    if guessed and branch.block is not None:
        return ask_target(session, branch.block, branch.elapsed_ms, branch.rule)
    return ask_draft(session, session.plan.draft) if session.plan.draft.max_tokens else ask_target(session)


def take_refusal(session: Session, declined: TargetDeclined) -> Step:
    """The target refused an early call: send it again, now without an assumption, if the round depends on it."""
    if session.phase is not Phase.VERIFYING or session.epoch != declined.epoch:
        return session._replace(branches=forget_refused(session.branches, declined.epoch)), ()
    kept = forget_refused(session.branches, None)  # their early calls assumed the refused one's verdict
    session, asks = call_target(session, session.block, session.block_ms, session.block_rule)
    return session._replace(branches=kept), asks


# --------------------------------------------------------------------------- slots: attached, lost, exchanged


def warm_draft(session: Session, event: DraftAttached) -> Step:
    """Feed a newly attached draft the committed tokens, in parallel with the target; no round waits for that."""
    if session.draft.attached:
        return refuse(session, event)
    session, ask = call_draft(session._replace(draft=DraftSide(attached=True)), (), StopRule(max_tokens=0))
    return session, (ask,)


def skip_block(session: Session, late: DraftLate) -> Step:
    """Continue the round without its block, which is late; the draft stays busy until its reply comes."""
    return ask_target(count_lost(session)) if late.epoch == session.epoch else drop_late(session, late)


def lose_draft(session: Session, _: DraftLost) -> Step:
    """Forget the draft."""
    return count_lost(without_draft(session)), ()


def lose_awaited_draft(session: Session, _: DraftLost) -> Step:
    """Continue the round that waited for its block without one."""
    return ask_target(count_lost(without_draft(session)))


def leave_draft(session: Session, _: DraftLeft) -> Step:
    """As ``lose_draft``, but not counted as a loss."""
    return without_draft(session), ()


def without_draft(session: Session) -> Session:
    """Blocks that have arrived stay: to drop one because of when its draft left would change what sampling emits."""
    branches = tuple(branch for branch in session.branches if not branch.on_its_way)
    return session._replace(draft=DraftSide(), branches=branches)


def count_lost(session: Session) -> Session:
    return session._replace(counts=session.counts._replace(draft_lost=session.counts.draft_lost + 1))


def lose_target(session: Session, _: TargetLost) -> Step:
    """Forget the target's cache and the block; attach another target. The draft keeps its cache."""
    epoch, side = session.last_epoch + 1, session.draft  # no call has this epoch, so all replies are stale
    if any(branch.on_its_way for branch in session.branches):
        side = side.given_up()  # the next call takes its place
    return session._replace(
        phase=Phase.ATTACHING,
        epoch=epoch,
        last_epoch=epoch,
        target_cached=0,
        draft=side,
        block=None,
        branches=(),
        counts=session.counts._replace(target_lost=session.counts.target_lost + 1),
    ), (AttachTarget(),)


def finish(session: Session, reason: FinishReason) -> Step:
    return session._replace(phase=Phase.FINISHED, finish_reason=reason), (Finish(reason),)


def cancel(session: Session, _: Cancel) -> Step:
    return finish(session, FinishReason.CANCELLED)


def fail(session: Session, event: Fail) -> Step:
    session, _ = finish(session, FinishReason.ERROR)
    return session, (Finish(FinishReason.ERROR, event.error),)


def ignore(session: Session, _: Event) -> Step:
    """An event that arrives after the answer ended."""
    return session, ()


def refuse(session: Session, event: Event) -> Step:
    """Happens only if the runner has a bug."""
    raise IllegalEvent(f"{type(event).__name__} while {session.phase.name} in epoch {session.epoch}")


# --------------------------------------------------------------------------- the table

Handler = Callable[[Session, Any], Step]
# fmt: off
TABLE: Mapping[type[Event], tuple[Handler, ...]] = {
    #                ATTACHING           PREFILLING    PLANNING            DRAFTING             VERIFYING     FINISHED
    TargetAttached: (prefill,            refuse,       refuse,             refuse,              refuse,       ignore),
    TargetAnswered: (take_stale_verdict, take_verdict, take_stale_verdict, take_stale_verdict,  take_verdict, ignore),
    TargetDeclined: (take_refusal,       take_refusal, take_refusal,       take_refusal,        take_refusal, ignore),
    TargetLost:     (refuse,             lose_target,  lose_target,        lose_target,         lose_target,  ignore),
    DraftAttached:  (warm_draft,         warm_draft,   warm_draft,         warm_draft,          warm_draft,   ignore),
    DraftAnswered:  (take_block,         take_block,   take_block,         take_block,          take_block,   ignore),
    DraftLate:      (drop_late,          drop_late,    drop_late,          skip_block,          drop_late,    ignore),
    DraftLost:      (lose_draft,         lose_draft,   lose_draft,         lose_awaited_draft,  lose_draft,   ignore),
    DraftLeft:      (leave_draft,        leave_draft,  leave_draft,        refuse,              leave_draft,   ignore),
    Planned:        (refuse,             refuse,       start_round,        refuse,              refuse,       ignore),
    Cancel:         (cancel,             cancel,       cancel,             cancel,              cancel,       ignore),
    Fail:           (fail,               fail,         fail,               fail,                fail,         ignore),
}
# fmt: on
TRANSITIONS: Mapping[Phase, Mapping[type[Event], Handler]] = {
    phase: {event: handlers[index] for event, handlers in TABLE.items()} for index, phase in enumerate(Phase)
}
"""The handler of every event in every phase."""
