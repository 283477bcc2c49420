"""Emission: which tokens of a verdict are emitted, where the answer ends, and the counts of the report."""

from __future__ import annotations

from adasd.control.controller import SessionController
from adasd.errors import IllegalEvent
from adasd.requests import SpeculationOptions
from adasd.results import (
    Chunk,
    Complete,
    EmittedToken,
    FinishReason,
    SpeculationReport,
    TokenKind,
    Usage,
)
from adasd.rounds import DraftBlock, RoundCompleted, Verdict
from adasd.session.calls import judged_part
from adasd.session.events import TargetAnswered
from adasd.session.lookahead import foreseen
from adasd.session.state import KINDS, Counts, Phase, Session
from adasd.text import stop_strings
from adasd.text.stop_strings import TextState

KIND_INDEX = {kind: index for index, kind in enumerate(KINDS)}


def emit(session: Session, answered: TargetAnswered) -> tuple[Session, RoundCompleted, Chunk]:
    """Commit the verdict's tokens up to the first that ends the answer, and count the round.

    The session is over if it then has a finish reason. Raises IllegalEvent if the verdict does not fit the block.
    """
    verdict, base_len, whole = answered.verdict, len(session.committed), session.block
    block = judged_part(whole, verdict.block_len)
    num_drafted = len(block.tokens) if block else 0
    if verdict.base_len != base_len or not 0 <= verdict.num_accepted <= num_drafted:
        raise IllegalEvent(
            f"a verdict of {verdict.num_accepted} accepted from {verdict.base_len} on does not fit a block of "
            f"{num_drafted} from {base_len} on"
        )
    is_first = session.num_emitted == 0
    session, shown, tokens = commit(session, provenance(block, verdict))
    draft_ms = session.block_ms if whole else 0.0
    done = RoundCompleted(
        drafted=block,
        verdict=verdict,
        draft_ms=draft_ms,
        verify_ms=answered.elapsed_ms,
        overhead_ms=max(0.0, answered.since_ms - draft_ms - answered.elapsed_ms),
        prefill=session.phase is Phase.PREFILLING,
        rule=session.block_rule,
        foreseen=foreseen(whole, verdict),
        asked_early=session.asked_early if session.plan.asks_early else None,
        num_emitted=len(tokens),
    )
    wants_prompt = session.request.sampling.prompt_logprobs is not None and is_first
    prompt_logprobs = (
        verdict.prompt_logprobs if wants_prompt else ()
    )  # once only, even if the target is replaced
    session = session._replace(
        target_cached=base_len + verdict.num_accepted,
        block=None,
        phase=Phase.PLANNING if session.finish_reason is None else Phase.FINISHED,
        counts=counted(session.counts, done, tokens, is_first=is_first),
    )
    return session, done, Chunk(shown, tokens, session.finish_reason, prompt_logprobs)


def provenance(block: DraftBlock | None, verdict: Verdict) -> tuple[EmittedToken, ...]:
    """The verdict's tokens, each with its provenance."""
    drafted = block.tokens if block else ()
    relaxed = verdict.relaxed or (False,) * verdict.num_accepted
    logprobs = verdict.logprobs or (None,) * (verdict.num_accepted + 1)
    judged = zip(drafted[: verdict.num_accepted], relaxed, logprobs[:-1], strict=True)
    accepted = [
        EmittedToken(token, TokenKind.RELAXED if is_relaxed else TokenKind.EXACT, logprob)
        for token, is_relaxed, logprob in judged
    ]
    if not drafted:
        last = TokenKind.TARGET
    elif verdict.num_accepted == len(drafted):
        last = TokenKind.BONUS
    else:
        last = TokenKind.CORRECTION
    return (*accepted, EmittedToken(verdict.next_token, last, logprobs[-1]))


def commit(
    session: Session, tokens: tuple[EmittedToken, ...]
) -> tuple[Session, str, tuple[EmittedToken, ...]]:
    """Append tokens up to the first that ends the answer; the text stops before a stop string, or behind it if asked.

    Returns the session, the text to show, and the emitted tokens.
    """
    num_kept, reason, match = end_by_token(session, tokens)
    shows_stop = session.request.sampling.include_stop_str_in_output
    # the token that ends the answer is no part of its text
    ends_silently = reason is FinishReason.STOP and not (shows_stop and match is not None)
    text, shown, num_read, stop = read_text(session, tokens[: num_kept - ends_silently])
    if stop is not None:
        num_kept, reason, match = num_read, FinishReason.STOP, stop
        shown += stop if shows_stop else ""
    elif reason is not None:
        shown += stop_strings.flush(text, session.decode)
    kept = tokens[:num_kept]
    committed = (*session.committed, *[token.id for token in kept])
    session = session._replace(committed=committed, text=text, finish_reason=reason, stop_match=match)
    return session, shown, kept


def end_by_token(
    session: Session, tokens: tuple[EmittedToken, ...]
) -> tuple[int, FinishReason | None, str | int | None]:
    """The number of tokens to emit, the finish reason or None, and the stop token that matched.

    Under a grammar the end-of-sequence token always ends the answer, despite ``min_tokens`` and ``ignore_eos``: the
    grammar says where it is allowed, and nothing can follow it.
    """
    sampling, num_before = session.request.sampling, session.num_emitted
    if sampling.max_tokens == 0:
        return 0, FinishReason.LENGTH, None
    for num, token in enumerate(tokens, 1):
        may_stop = num_before + num > sampling.min_tokens
        if token.id in session.eos_ids and (
            sampling.grammar is not None or (may_stop and not sampling.ignore_eos)
        ):
            return num, FinishReason.STOP, None
        if may_stop and token.id in sampling.stop_token_ids:
            return num, FinishReason.STOP, token.id
        if num_before + num >= sampling.max_tokens:
            return num, FinishReason.LENGTH, None
    return len(tokens), None, None


def read_text(session: Session, tokens: tuple[EmittedToken, ...]) -> tuple[TextState, str, int, str | None]:
    """Decode up to the first stop string. Returns text state, text to show, tokens read, stop string or None."""
    sampling, decode, text, shown = session.request.sampling, session.decode, session.text, ""
    if not sampling.stop:  # all tokens at once
        text, shown, _ = stop_strings.push(text, [token.id for token in tokens], (), decode)
        return text, shown, len(tokens), None
    for num, token in enumerate(tokens, 1):
        stops = sampling.stop if session.num_emitted + num > sampling.min_tokens else ()
        text, piece, stop = stop_strings.push(text, (token.id,), stops, decode)
        shown += piece
        if stop is not None:
            return text, shown, num, stop
    return text, shown, len(tokens), None


# --------------------------------------------------------------------------- counts


def counted(
    counts: Counts, done: RoundCompleted, tokens: tuple[EmittedToken, ...], *, is_first: bool
) -> Counts:
    """Add a round and its emitted tokens. What another target had cached after a loss is not counted."""
    drafted, verdict = done.drafted, done.verdict
    draft_ms = drafted.compute_ms if drafted else 0.0
    waited_ms = max(0.0, done.draft_ms - draft_ms) + max(0.0, done.verify_ms - verdict.compute_ms)
    by_kind = list(counts.by_kind)
    for token in tokens:
        by_kind[KIND_INDEX[token.kind]] += 1
    with_block = done.num_drafted > 0
    return counts._replace(
        num_rounds=counts.num_rounds + (not done.prefill),
        cached_tokens=verdict.cached_tokens if is_first else counts.cached_tokens,
        accepted_per_round=(*counts.accepted_per_round, *(done.num_accepted,) * with_block),
        drafted_per_round=(*counts.drafted_per_round, *(done.num_drafted,) * with_block),
        by_kind=tuple(by_kind),
        draft_ms=counts.draft_ms + draft_ms,
        verify_ms=counts.verify_ms + verdict.compute_ms,
        network_ms=counts.network_ms + waited_ms,
    )


def complete(session: Session, effective: SpeculationOptions, learned: SessionController) -> Complete:
    """The last result of an answer that did not fail."""
    counts = session.counts
    return Complete(
        finish_reason=session.finish_reason or FinishReason.ERROR,
        usage=Usage(len(session.request.prompt), session.num_emitted, counts.cached_tokens),
        speculation=SpeculationReport(
            effective=effective,
            num_rounds=counts.num_rounds,
            num_draft_rounds=len(counts.drafted_per_round),
            num_draft_tokens=sum(counts.drafted_per_round),
            num_accepted_tokens=sum(counts.accepted_per_round),
            accepted_per_round=counts.accepted_per_round,
            drafted_per_round=counts.drafted_per_round,
            kinds=tuple((kind, count) for kind, count in zip(KINDS, counts.by_kind, strict=True)),
            generation_threshold=learned.generation_threshold,
            acceptance_threshold=learned.acceptance_threshold,
            distortion=learned.distortion,
            draft_ms=counts.draft_ms,
            verify_ms=counts.verify_ms,
            network_ms=counts.network_ms,
            draft_lost=counts.draft_lost,
            target_lost=counts.target_lost,
            num_ahead=counts.num_ahead,
            num_ahead_used=counts.num_ahead_used,
            drafts_used=learned.sources_used,
        ),
        stop_match=session.stop_match,
    )
