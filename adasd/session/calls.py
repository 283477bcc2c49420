"""Builds the calls of a session: each says what the worker keeps in its cache and what it is fed. Cuts blocks."""

from __future__ import annotations

from adasd.rounds import Assumption, DraftBlock, DraftCall, DraftDistributions, StopRule, VerifyCall
from adasd.session.events import Action, AskDraft, AskVerify
from adasd.session.state import Phase, Session

Step = tuple[Session, tuple[Action, ...]]


def call_target(
    session: Session,
    block: DraftBlock | None = None,
    block_ms: float = 0.0,
    rule: StopRule | None = None,
    *,
    phase: Phase = Phase.VERIFYING,
) -> Step:
    """Call for a verdict on a block drafted by ``rule`` (None: plain decoding), in a new epoch without branches."""
    epoch, keep_len = session.last_epoch + 1, session.target_cached
    call = verify_call(session, epoch, keep_len, session.committed[keep_len:], block)
    session = session._replace(
        phase=phase,
        epoch=epoch,
        last_epoch=epoch,
        block=block,
        block_ms=block_ms,
        block_rule=rule,
        asked_early=False,
        branches=(),
    )
    return session, (AskVerify(call),)


def verify_call(
    session: Session,
    epoch: int,
    keep_len: int,
    feed: tuple[int, ...],
    block: DraftBlock | None,
    assuming: Assumption | None = None,
) -> VerifyCall:
    """The verify call for a block (None: plain decoding), under the acceptance rule of the current round."""
    return VerifyCall(
        session.request.request_id,
        epoch,
        keep_len,
        feed,
        block=block.tokens if block else (),
        distributions=block.distributions if block else None,
        rule=session.plan.accept,
        confidences=block.confidences if block else (),
        assuming=assuming,
    )


def call_draft(
    session: Session, behind: tuple[int, ...], rule: StopRule, *, optimistic: bool = False
) -> tuple[Session, AskDraft]:
    """Make the draft continue the committed tokens and those assumed after them (``behind``); feed what it lacks."""
    epoch = session.last_epoch + 1
    side = session.draft.asked(epoch, session.committed, behind, only_feeds=rule.max_tokens == 0)
    call = DraftCall(
        session.request.request_id, epoch, side.keep_len, side.feeding, rule, optimistic, session.patience_s
    )
    return session._replace(last_epoch=epoch, draft=side), AskDraft(call)


def without_token_past_stop(drafted: DraftBlock, rule: StopRule, num_kept: int) -> DraftBlock:
    """Drop the last token if its entropy exceeds the ceiling and the rule wants that; ``num_kept`` always stay.

    The decision depends on the distribution that the token was drawn from, not on the token, so tests stay exact.
    """
    entropies = drafted.entropies
    if not rule.drops_last or len(drafted.tokens) <= num_kept or len(entropies) != len(drafted.tokens):
        return drafted
    return part(drafted, slice(-1)) if entropies[-1] > rule.entropy_ceiling else drafted


def judged_part(block: DraftBlock | None, length: int | None) -> DraftBlock | None:
    """The first ``length`` tokens of a block, those the target judged (None: all); None if there are none."""
    if block is None or length is None or length >= len(block.tokens):
        return block
    return part(block, slice(length)) if length else None


def part(drafted: DraftBlock, which: slice) -> DraftBlock:
    """Some of a block's tokens, with their positions, entropies, distributions, confidences and runner-ups.

    Every round drafted ahead cuts one; ``dataclasses.replace`` takes twice as long.
    """
    full = drafted.distributions
    return DraftBlock(
        drafted.session,
        drafted.epoch,
        drafted.base_len + which.indices(len(drafted.tokens))[0],
        drafted.tokens[which],
        drafted.entropies[which],
        None if full is None else DraftDistributions(full.ids[which], full.logprobs[which]),
        drafted.compute_ms,
        drafted.queue_ms,
        drafted.confidences[which],
        drafted.runner_ups[which],
    )
