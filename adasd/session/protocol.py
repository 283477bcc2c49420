"""The life of one answer as a protocol without I/O: ``step(session, event) -> (session, actions)``.

    NEW ──begin──> ATTACHING ──TargetAttached──> PREFILLING ──verdict──> PLANNING
    PLANNING ──Planned──> DRAFTING ──block, late or lost──> VERIFYING ──verdict──> PLANNING
    PLANNING ──Planned, nothing to draft──────────────────> VERIFYING
    any ──TargetLost──> ATTACHING (prefill of prompt + committed tokens follows)
    any ──last token, Cancel or Fail──> FINISHED

While the target judges a block the draft may prepare for the likeliest outcomes (adasd.session.lookahead); PLANNING
then leads straight to VERIFYING when one of them comes true. Under an exact rule the target was asked already, on that
assumption, and goes on without a word. Where nothing is drafted it is asked for the token behind the next
one, whichever that is, and decodes on while its verdicts travel. A lost or late draft costs speed, never an answer:
the round goes on with an empty block, which is plain decoding. Every ask carries a fresh epoch; an answer to any other
ask is stale and changes nothing. Roll-back is not a message of its own: each call says how many cached tokens
to keep, and feeds the rest. The newest committed token is never cached yet, so after a full acceptance the
draft is simply fed two tokens.
"""

from __future__ import annotations

from dataclasses import replace

from adasd.errors import IllegalEvent
from adasd.results import Chunk, EmittedToken, FinishReason, TokenKind, TokenLogprob
from adasd.rounds import Assumption, DraftBlock, DraftCall, RoundCompleted, StopRule, Verdict, VerifyCall
from adasd.session.events import (
    Action,
    AskDraft,
    AskPlan,
    AskVerify,
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
    Ahead,
    doubt,
    expects_rejection,
    foreseen,
    judged_part,
    may_come_true,
    rule_ahead,
    rule_instead,
    without_tripping,
)
from adasd.session.state import DraftSide, Phase, Session, Terms
from adasd.session.tally import Tally
from adasd.text import stop_strings
from adasd.text.stop_strings import TextState

Step = tuple[Session, tuple[Action, ...]]


def begin(terms: Terms) -> Step:
    """Start a session; an answer of no tokens ends at once, unless the prompt is to be looked at."""
    session = Session(terms, committed=terms.prompt)
    if terms.sampling.max_tokens == 0 and terms.sampling.prompt_logprobs is None:
        return finish(session, FinishReason.LENGTH)
    return session._replace(phase=Phase.ATTACHING), (AttachTarget(),)


def step(session: Session, event: Event) -> Step:
    """Advance by one event. Raises IllegalEvent for what the phase does not allow."""
    match session.phase, event:
        case Phase.FINISHED, _:
            return session, ()  # what was on its way when the answer ended
        case _, Cancel():
            return finish(session, FinishReason.CANCELLED)
        case _, Fail(error):
            ended = session._replace(phase=Phase.FINISHED, finish_reason=FinishReason.ERROR)
            return ended, (Finish(FinishReason.ERROR, error),)
        case Phase.ATTACHING, TargetAttached():
            return verify(session._replace(target_cached=0), phase=Phase.PREFILLING)
        case Phase.PLANNING, Planned():
            return start_round(session._replace(plan=event))
        case _, DraftAttached() if not session.draft.attached:
            return warm_draft(session)
        case _, DraftAnswered():
            return take_block(session, event.drafted, event.elapsed_ms)
        case _, DraftLate(epoch):
            return be_late(session, epoch)
        case _, DraftLost():
            return lose_draft(session)
        case _, DraftLeft():
            return leave_draft(session)
        case ((Phase.PREFILLING | Phase.VERIFYING), TargetAnswered(verdict)) if (
            verdict.epoch == session.epoch
        ):
            return take_verdict(session, verdict, event.elapsed_ms)
        case _, TargetAnswered(verdict) if verdict.epoch < session.epoch:
            return session, ()
        case _, TargetDeclined(epoch):
            return take_refusal(session, epoch)
        case _, TargetLost():
            return lose_target(session)
        case phase, _:
            raise IllegalEvent(f"{type(event).__name__} while {phase.name} in epoch {session.epoch}")


# --------------------------------------------------------------------------- rounds


def start_round(session: Session) -> Step:
    """Judge what was drafted ahead, or draft if the plan and the draft allow it, else decode plainly.

    The target never waits for a draft that is busy with something else.
    """
    rule, ahead = session.plan.draft, session.ahead
    if session.going_on is not None:
        return go_on_decoding(session, session.going_on)
    if ahead is not None and ahead.asked is not None:
        return go_on_judging(session, ahead, ahead.asked)
    if rule.max_tokens == 0:
        return decode(session)
    if ahead is not None and ahead.drafted is None:  # on its way, and still worth something
        return session._replace(phase=Phase.DRAFTING, epoch=ahead.epoch), ()
    if ahead is not None and ahead.block is not None:
        return judge(session, ahead.block, 0.0, ahead.rule)
    return ask_draft(session, rule) if session.draft.ready else decode(session)


def ask_draft(session: Session, rule: StopRule) -> Step:
    """Have the draft go on behind what is committed; opens a new epoch."""
    session, ask = call_draft(session, (), rule)
    epoch = session.last_epoch
    return session._replace(phase=Phase.DRAFTING, epoch=epoch, ahead=None, instead=None), (ask,)


def call_draft(
    session: Session, behind: tuple[int, ...], rule: StopRule, *, optimistic: bool = False
) -> tuple[Session, AskDraft]:
    """Send what the draft has not cached yet of the committed text and what is assumed ``behind`` it, and the rule."""
    epoch = session.last_epoch + 1
    draft = session.draft.asked(epoch, session.committed, behind)
    call = DraftCall(session.terms.session, epoch, draft.keep_len, draft.feeding, rule, optimistic)
    return session._replace(last_epoch=epoch, draft=draft), AskDraft(call)


def prepare(session: Session) -> Step:
    """Let the draft prepare for what the verdict under way may be, the likelier outcome first, while it has time."""
    block, plan = session.block, session.plan
    if block is None or session.phase is not Phase.VERIFYING or not session.draft.ready:
        return session, ()
    at = doubt(block) if plan.instead and session.instead is None else None
    goes_on = plan.ahead and session.ahead is None
    if at is not None and (not goes_on or expects_rejection(block, at)):
        rule = rule_instead(plan.draft, at.place, session.remaining_tokens)
        if rule is not None:
            behind = (*block.tokens[: at.place], at.token)
            session, ask = call_draft(session, behind, rule, optimistic=True)
            instead = Ahead(session.last_epoch, block.base_len + at.place, rule, at.token)
            return session._replace(instead=instead, tally=count_ahead(session)), (ask,)
    rule = rule_ahead(plan.draft, len(block.tokens), session.remaining_tokens)
    if rule is None or not goes_on:
        return session, ()
    session, ask = call_draft(session, block.tokens, rule, optimistic=True)
    rule = replace(rule, max_tokens=rule.max_tokens - 1)  # behind the guess
    ahead = Ahead(session.last_epoch, block.base_len + len(block.tokens), rule)
    return session._replace(ahead=ahead, tally=count_ahead(session)), (ask,)


def warm_draft(session: Session) -> Step:
    """Let a fresh draft read what is committed, beside whatever the target does; drafts nothing."""
    session = session._replace(draft=DraftSide(attached=True))
    session, ask = call_draft(session, (), StopRule(max_tokens=0))
    return session, (ask,)  # not the session's epoch: the round under way does not wait for it


def verify(
    session: Session,
    block: DraftBlock | None = None,
    block_ms: float = 0.0,
    rule: StopRule | None = None,
    *,
    phase: Phase = Phase.VERIFYING,
) -> Step:
    """Ask for a verdict on a block drafted by ``rule`` (None: on nothing, plain decoding); opens a new epoch.

    What was drafted ahead is forgotten: it either is this block or did not come true.
    """
    epoch, keep_len = session.last_epoch + 1, session.target_cached
    call = VerifyCall(
        session.terms.session,
        epoch,
        keep_len,
        feed=session.committed[keep_len:],
        block=block.tokens if block else (),
        distributions=block.distributions if block else None,
        rule=session.plan.accept,
        confidences=block.confidences if block else (),
    )
    session = session._replace(
        phase=phase,
        epoch=epoch,
        last_epoch=epoch,
        block=block,
        block_ms=block_ms,
        block_rule=rule,
        ahead=None,
        instead=None,
        going_on=None,
    )
    return session, (AskVerify(call),)


def judge(session: Session, block: DraftBlock, block_ms: float, rule: StopRule) -> Step:
    """Ask for a verdict on a block that the draft has just finished, and let the draft go on."""
    session, ask = verify(session, block, block_ms, rule)
    session, go_on = prepare(session)
    return session, (*ask, *go_on)


def ask_early(session: Session, ahead: Ahead) -> Step:
    """Have the target judge what was drafted ahead as soon as its verdict agrees with it: a hop less between verdicts.

    The call is the one that would follow that verdict anyway, so nothing depends on whether it is asked early;
    hence only under a rule that the verdict cannot change.
    """
    block, token, rule = ahead.block, ahead.newest, session.plan.accept
    if session.phase is not Phase.VERIFYING or session.block is None or block is None or token is None:
        return session, ()
    if rule.relax or rule.want_distances:
        return session, ()
    epoch = session.last_epoch + 1
    num_accepted = None if ahead.token is None else ahead.base_len - session.block.base_len
    call = VerifyCall(
        session.terms.session,
        epoch,
        keep_len=ahead.base_len,
        feed=(token,),
        block=block.tokens,
        distributions=block.distributions,
        rule=rule,
        confidences=block.confidences,
        assuming=Assumption(session.epoch, token, num_accepted),
    )
    return with_outcome(session._replace(last_epoch=epoch), ahead._replace(asked=epoch)), (AskVerify(call),)


def with_outcome(session: Session, outcome: Ahead) -> Session:
    """The session with what is known of one outcome now."""
    if session.ahead is not None and session.ahead.epoch == outcome.epoch:
        return session._replace(ahead=outcome)
    return session._replace(instead=outcome)


def go_on_judging(session: Session, ahead: Ahead, epoch: int) -> Step:
    """The target is at what was drafted ahead already; let the draft go on behind that."""
    session = session._replace(
        phase=Phase.VERIFYING,
        epoch=epoch,
        block=ahead.block,
        block_ms=0.0,
        block_rule=ahead.rule,
        ahead=None,
    )
    return prepare(session)


def decode(session: Session) -> Step:
    """A round without a block, and what may follow it."""
    session, ask = verify(session)
    session, next_ask = ask_on(session)
    return session, (*ask, *next_ask)


def ask_on(session: Session) -> Step:
    """Have the target decode on behind the token that it is at, whichever that becomes, if nothing will be drafted.

    The call is the one that would follow anyway, so the hop between two tokens is hidden. Where the answer ends
    unforeseen, a forward pass for one token was for nothing.
    """
    plan = session.plan
    drafts = plan.draft.max_tokens > 0 and session.draft.attached
    if drafts or not plan.decodes_on or session.remaining_tokens < 2:
        return session, ()
    epoch = session.last_epoch + 1
    call = VerifyCall(
        session.terms.session,
        epoch,
        keep_len=len(session.committed),
        feed=(),
        rule=plan.accept,
        assuming=Assumption(session.epoch, None),
    )
    return session._replace(last_epoch=epoch, going_on=epoch), (AskVerify(call),)


def go_on_decoding(session: Session, epoch: int) -> Step:
    """The target is at the next token already; drafting, if that is planned now, has to wait for it."""
    return ask_on(session._replace(phase=Phase.VERIFYING, epoch=epoch, going_on=None))


def take_refusal(session: Session, epoch: int) -> Step:
    """What was asked early will not be judged: ask again if the round counts on it."""
    if session.going_on == epoch:
        return session._replace(going_on=None), ()
    ahead, instead = session.ahead, session.instead
    for outcome in (ahead, instead):
        if outcome is not None and outcome.asked == epoch:
            return with_outcome(session, outcome._replace(asked=None)), ()
    if session.phase is Phase.VERIFYING and session.epoch == epoch:
        session, ask = verify(session, session.block, session.block_ms, session.block_rule)
        # what was asked early assumed the verdict that will not come
        ahead, instead = ahead and ahead._replace(asked=None), instead and instead._replace(asked=None)
        return session._replace(ahead=ahead, instead=instead), ask
    return session, ()


def awaits_block(session: Session, epoch: int) -> bool:
    """Is this the block that the round under way waits for?"""
    return session.phase is Phase.DRAFTING and epoch == session.epoch


def take_block(session: Session, drafted: DraftBlock, elapsed_ms: float) -> Step:
    """A block arrived: judge it if the round waits for it, keep it if it is ahead, else the draft is just free."""
    if drafted.epoch != session.draft.busy:
        return session, ()  # from a draft, or a call, that this session gave up
    wanted = awaits_block(session, drafted.epoch)
    session = session._replace(draft=session.draft.answered(drafted))
    for outcome in (session.ahead, session.instead):
        if outcome is not None and outcome.epoch == drafted.epoch:
            num_kept = 1 if outcome.token is not None else 2  # a guess and a token behind it
            kept = without_tripping(drafted, outcome.rule, num_kept)
            arrived = outcome._replace(drafted=kept, elapsed_ms=elapsed_ms)
            return settle_ahead(session, arrived) if wanted else keep(session, arrived)
    if not wanted:
        return session, ()
    if drafted.base_len != len(session.committed):
        raise IllegalEvent(
            f"the block begins at {drafted.base_len}, the answer ends at {len(session.committed)}"
        )
    if not drafted.tokens:
        return verify(session)
    rule = session.plan.draft
    return judge(session, without_tripping(drafted, rule, num_kept=1), elapsed_ms, rule)


def keep(session: Session, arrived: Ahead) -> Step:
    """A block for an outcome that is still open: let the target know of it, and prepare for another outcome."""
    session, ask = ask_early(with_outcome(session, arrived), arrived)
    session, more = prepare(session)
    return session, (*ask, *more)


def settle_ahead(session: Session, ahead: Ahead) -> Step:
    """The verdict came before the block that was drafted ahead, and the round waits: does the block fit?"""
    if ahead.newest != session.committed[-1]:
        return ask_draft(session, session.plan.draft)
    session = session._replace(tally=count_used(session))
    if ahead.block is None:
        return ask_draft(session, session.plan.draft)
    return judge(session, ahead.block, ahead.elapsed_ms, ahead.rule)


def take_verdict(session: Session, verdict: Verdict, elapsed_ms: float) -> Step:
    """Commit what stands, learn from it, and begin the next round or end."""
    whole = session.block
    block = judged_part(whole, verdict.block_len)
    num_drafted = len(block.tokens) if block else 0
    base_len = len(session.committed)
    if verdict.base_len != base_len or not 0 <= verdict.num_accepted <= num_drafted:
        raise IllegalEvent(
            f"a verdict of {verdict.num_accepted} accepted from {verdict.base_len} on does not fit a block of "
            f"{num_drafted} from {base_len} on"
        )
    prefill = session.phase is Phase.PREFILLING
    block_ms = session.block_ms if whole else 0.0
    as_expected = foreseen(whole, verdict)
    done = RoundCompleted(block, verdict, block_ms, elapsed_ms, prefill, session.block_rule, as_expected)
    session = session._replace(
        target_cached=base_len + verdict.num_accepted,
        block=None,
        tally=session.tally.with_round(done),
    )
    if whole is not None:
        session = settle_outcomes(session, verdict)
    session, emit = commit(session, provenance(block, verdict), prompt_logprobs_of(session, verdict))
    if session.finish_reason is not None:
        return session, (Learn(done), emit, Finish(session.finish_reason))
    return session, (Learn(done), emit, ask_plan(session))


def settle_outcomes(session: Session, verdict: Verdict) -> Session:
    """Keep what was drafted for the outcome that came true; forget the other."""
    came_true = None
    for outcome in (session.ahead, session.instead):
        if may_come_true(outcome, verdict):
            came_true = outcome
        elif outcome is not None and session.draft.busy == outcome.epoch:
            session = session._replace(draft=session.draft.given_up())  # the next call takes its place
    session = session._replace(ahead=came_true, instead=None)
    if came_true is None or came_true.drafted is None:
        return session  # if there is one, the next round waits for it
    return session._replace(tally=count_used(session))


def count_ahead(session: Session) -> Tally:
    return session.tally._replace(num_ahead=session.tally.num_ahead + 1)


def count_used(session: Session) -> Tally:
    return session.tally._replace(num_ahead_used=session.tally.num_ahead_used + 1)


def ask_plan(session: Session) -> AskPlan:
    relaxed = session.tally.of_kind(TokenKind.RELAXED)
    return AskPlan(session.remaining_tokens, session.num_emitted, relaxed)


def provenance(block: DraftBlock | None, verdict: Verdict) -> tuple[EmittedToken, ...]:
    """The verdict's tokens, each with where it came from."""
    drafted = block.tokens if block else ()
    relaxed = verdict.relaxed or (False,) * verdict.num_accepted
    logprobs = verdict.logprobs or (None,) * (verdict.num_accepted + 1)
    accepted = tuple(
        EmittedToken(token, TokenKind.RELAXED if loose else TokenKind.EXACT, logprob)
        for token, loose, logprob in zip(drafted[: verdict.num_accepted], relaxed, logprobs[:-1], strict=True)
    )
    if not drafted:
        last = TokenKind.TARGET
    elif verdict.num_accepted == len(drafted):
        last = TokenKind.BONUS
    else:
        last = TokenKind.CORRECTION
    return (*accepted, EmittedToken(verdict.next_token, last, logprobs[-1]))


def prompt_logprobs_of(session: Session, verdict: Verdict) -> tuple[TokenLogprob, ...]:
    """What goes out with the first chunk, and not again when another target reads the prompt."""
    wanted = session.terms.sampling.prompt_logprobs is not None and session.num_emitted == 0
    return verdict.prompt_logprobs if wanted else ()


# --------------------------------------------------------------------------- commit and end


def commit(
    session: Session, tokens: tuple[EmittedToken, ...], prompt_logprobs: tuple[TokenLogprob, ...] = ()
) -> tuple[Session, Emit]:
    """Append tokens up to the first that ends the answer; the text stops before a stop string."""
    num_kept, reason, match = end_by_token(session, tokens)
    ends_silently = reason is FinishReason.STOP  # the token that ends the answer is no part of its text
    text, shown, num_read, stop = read_text(session, tokens[: num_kept - ends_silently])
    if stop is not None:
        num_kept, reason, match = num_read, FinishReason.STOP, stop
    elif reason is not None:
        shown += stop_strings.flush(text, session.terms.decode)
    kept = tokens[:num_kept]
    session = session._replace(
        phase=Phase.PLANNING if reason is None else Phase.FINISHED,
        committed=(*session.committed, *(token.id for token in kept)),
        text=text,
        tally=session.tally.with_tokens(kept),
        finish_reason=reason,
        stop_match=match,
    )
    return session, Emit(Chunk(shown, kept, reason, prompt_logprobs))


def end_by_token(
    session: Session, tokens: tuple[EmittedToken, ...]
) -> tuple[int, FinishReason | None, str | int | None]:
    """How many tokens stand, why the answer ends with them if it does, and the stop token that did it.

    An answer that follows a grammar ends with the end-of-sequence token whatever else was asked for: the grammar
    says where that is allowed, and nothing can follow.
    """
    terms, sampling, num_before = session.terms, session.terms.sampling, session.num_emitted
    if sampling.max_tokens == 0:
        return 0, FinishReason.LENGTH, None
    for num, token in enumerate(tokens, 1):
        may_stop = num_before + num > sampling.min_tokens
        if token.id in terms.eos_ids and (
            sampling.grammar is not None or (may_stop and not sampling.ignore_eos)
        ):
            return num, FinishReason.STOP, None
        if may_stop and token.id in sampling.stop_token_ids:
            return num, FinishReason.STOP, token.id
        if num_before + num >= sampling.max_tokens:
            return num, FinishReason.LENGTH, None
    return len(tokens), None, None


def read_text(session: Session, tokens: tuple[EmittedToken, ...]) -> tuple[TextState, str, int, str | None]:
    """Read up to the first stop string: the text's state, what may be shown, tokens read, the stop string."""
    sampling, decode, text, shown = session.terms.sampling, session.terms.decode, session.text, ""
    if not sampling.stop:  # in one piece
        text, shown, _ = stop_strings.push(text, [token.id for token in tokens], (), decode)
        return text, shown, len(tokens), None
    for num, token in enumerate(tokens, 1):
        stops = sampling.stop if session.num_emitted + num > sampling.min_tokens else ()
        text, piece, stop = stop_strings.push(text, (token.id,), stops, decode)
        shown += piece
        if stop is not None:
            return text, shown, num, stop
    return text, shown, len(tokens), None


def finish(session: Session, reason: FinishReason) -> Step:
    return session._replace(phase=Phase.FINISHED, finish_reason=reason), (Finish(reason),)


# --------------------------------------------------------------------------- losses


def be_late(session: Session, epoch: int) -> Step:
    """Go on without a block that the round waits for; do not count on one that is late ahead of its round."""
    if awaits_block(session, epoch):
        return go_on_without(session)
    if session.ahead is not None and session.ahead.epoch == epoch and session.ahead.drafted is None:
        return session._replace(ahead=None, draft=session.draft.given_up()), ()
    if session.instead is not None and session.instead.epoch == epoch and session.instead.drafted is None:
        return session._replace(instead=None, draft=session.draft.given_up()), ()
    return session, ()


def go_on_without(session: Session) -> Step:
    """Decode this round plainly; a late draft stays busy until its answer comes."""
    tally = session.tally._replace(draft_lost=session.tally.draft_lost + 1)
    return decode(session._replace(tally=tally))


def lose_draft(session: Session) -> Step:
    """Forget the draft; a round that waited for its block goes on without."""
    waiting = session.phase is Phase.DRAFTING
    session = session._replace(draft=DraftSide(), ahead=None, instead=None)
    if waiting:
        return go_on_without(session)
    return session._replace(tally=session.tally._replace(draft_lost=session.tally.draft_lost + 1)), ()


def leave_draft(session: Session) -> Step:
    """As after a loss, but none is counted."""
    waiting = session.phase is Phase.DRAFTING
    session = session._replace(draft=DraftSide(), ahead=None, instead=None)
    return verify(session) if waiting else (session, ())


def lose_target(session: Session) -> Step:
    """Forget the target's cache and the block; ask for another target. The draft keeps what it has cached."""
    if session.phase is Phase.ATTACHING:
        raise IllegalEvent("TargetLost while none is attached")
    epoch = session.last_epoch + 1  # nobody answers to this one
    draft = session.draft
    if any(
        outcome is not None and draft.busy == outcome.epoch for outcome in (session.ahead, session.instead)
    ):
        draft = draft.given_up()  # the next call takes its place
    return session._replace(
        phase=Phase.ATTACHING,
        epoch=epoch,
        last_epoch=epoch,
        target_cached=0,
        draft=draft,
        block=None,
        ahead=None,
        instead=None,
        going_on=None,
        tally=session.tally._replace(target_lost=session.tally.target_lost + 1),
    ), (AttachTarget(),)
