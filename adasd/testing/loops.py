"""Plain and speculative generation loops over bare engines: the shortest complete use of the Engine protocol."""

from __future__ import annotations

from collections.abc import Sequence

from adasd.ports import Engine
from adasd.rounds import (
    AcceptanceRule,
    DraftBlock,
    DraftCall,
    OpenCall,
    SamplingTransform,
    StopRule,
    Verdict,
    VerifyCall,
)

GREEDY = SamplingTransform(temperature=0.0)


def run_until_idle(engine: Engine) -> list[DraftBlock | Verdict]:
    """Step until every waiting call is answered; raises the error of a CallFailed."""
    answers: list[DraftBlock | Verdict] = []
    while engine.num_pending:
        for answer in engine.step():
            if not isinstance(answer, DraftBlock | Verdict):
                raise answer.error
            answers.append(answer)
    return answers


def verify(engine: Engine, call: VerifyCall) -> Verdict:
    """Submit one call and wait for its verdict; nothing else may be waiting."""
    engine.submit(call)
    (answer,) = run_until_idle(engine)
    assert isinstance(answer, Verdict), answer
    return answer


def draft(engine: Engine, call: DraftCall) -> DraftBlock:
    """Submit one call and wait for its block; nothing else may be waiting."""
    engine.submit(call)
    (answer,) = run_until_idle(engine)
    assert isinstance(answer, DraftBlock), answer
    return answer


def plain(
    engine: Engine, prompt: Sequence[int], num_tokens: int, transform: SamplingTransform = GREEDY
) -> list[int]:
    """Plain decoding of one session; opens and closes it."""
    return plain_batch(engine, [prompt], num_tokens, transform)[0]


def plain_batch(
    engine: Engine, prompts: Sequence[Sequence[int]], num_tokens: int, transform: SamplingTransform = GREEDY
) -> list[list[int]]:
    """Plain decoding of several sessions at once, each at its own pace."""
    answers: dict[str, list[int]] = {}
    for i, prompt in enumerate(prompts):
        session = f"plain-{i}"
        answers[session] = []
        engine.open(OpenCall(session, transform, len(prompt) + num_tokens))
        engine.submit(VerifyCall(session, 0, 0, tuple(prompt)))
    while engine.num_pending:
        for verdict in engine.step():
            assert isinstance(verdict, Verdict), verdict
            tokens = answers[verdict.session]
            tokens.append(verdict.next_token)
            if len(tokens) < num_tokens:
                cached = engine.cached_len(verdict.session)
                engine.submit(VerifyCall(verdict.session, len(tokens), cached, (verdict.next_token,)))
    for session in answers:
        engine.close(session)
    return list(answers.values())


def speculative(
    draft_engine: Engine,
    target_engine: Engine,
    prompt: Sequence[int],
    num_tokens: int,
    rule: StopRule,
    transform: SamplingTransform = GREEDY,
    accept: AcceptanceRule | None = None,
) -> tuple[list[int], list[int]]:
    """Draft and verify in turns; returns the answer's tokens and the accepted tokens per round.

    Both engines may be the same object.
    """
    tokens, accepted = list(prompt), list[int]()
    room = len(prompt) + num_tokens + rule.max_tokens + 1
    draft_engine.open(OpenCall("draft", transform, room))
    target_engine.open(OpenCall("target", transform, room))
    draft_valid = 0  # committed tokens in the draft's cache; later ones were rejected
    while len(tokens) < len(prompt) + num_tokens:
        epoch, base_len = len(accepted), len(tokens)
        drafted = DraftBlock("draft", epoch, base_len, (), ())
        if epoch:  # the first round is the prefill, which gives the first token
            call = DraftCall("draft", epoch, draft_valid, tuple(tokens[draft_valid:]), rule)
            drafted = draft(draft_engine, call)
        keep = target_engine.cached_len("target")
        verdict = verify(
            target_engine,
            VerifyCall(
                "target",
                epoch,
                keep,
                tuple(tokens[keep:]),
                drafted.tokens,
                drafted.distributions,
                accept or AcceptanceRule(),
            ),
        )
        accepted.append(verdict.num_accepted)
        tokens += [*drafted.tokens[: verdict.num_accepted], verdict.next_token]
        draft_valid = min(draft_engine.cached_len("draft"), base_len + verdict.num_accepted)
    draft_engine.close("draft")
    target_engine.close("target")
    return tokens[len(prompt) : len(prompt) + num_tokens], accepted[1:]
