"""Log-probabilities stay with their tokens, the prompt's come once, and grammars decide when an answer may end."""

from __future__ import annotations

import pytest

from adasd.requests import GenerationRequest, Grammar, GrammarKind, SamplingParams
from adasd.results import FinishReason, TokenLogprob
from adasd.session.events import (
    AskDraft,
    AskVerify,
    DraftAnswered,
    DraftAttached,
    Emit,
    Finish,
    TargetAttached,
    TargetLost,
)
from adasd.session.opening import open_call
from adasd.session.protocol import step
from adasd.session.state import Phase, Session
from tests.unit.session.helpers import EOS, begun, block, planned, start, verdict
from tests.unit.session.test_protocol import only

GRAMMAR = Grammar(GrammarKind.REGEX, "ab*")
OF_PROMPT = tuple(TokenLogprob(-float(i)) for i in range(4))


def lp(value: float) -> TokenLogprob:
    return TokenLogprob(value, ((7, value),))


def prefilled(with_draft: bool = False, **sampling: object) -> tuple[Session, Emit]:
    session = begun(**sampling)
    if with_draft:
        session, actions = step(session, DraftAttached())
        session, _ = step(session, DraftAnswered(block(only(actions, AskDraft).call, "")))
    session, actions = step(session, TargetAttached())
    ask = only(actions, AskVerify)
    session, actions = step(
        session, verdict(ask.call, 0, "a", logprobs=(lp(-0.5),), prompt_logprobs=OF_PROMPT)
    )
    return session, only(actions, Emit)


def test_each_token_carries_what_the_target_thought_of_it():
    session, _ = prefilled(with_draft=True, logprobs=1)
    session, actions = step(session, planned(8))
    session, actions = step(session, DraftAnswered(block(only(actions, AskDraft).call, "bcd")))
    said = (lp(-1.0), lp(-2.0))
    session, actions = step(session, verdict(only(actions, AskVerify).call, 1, "X", logprobs=said))
    assert tuple(token.logprob for token in only(actions, Emit).chunk.tokens) == said


def test_tokens_that_nobody_asked_about_carry_nothing():
    session, actions = step(begun(), TargetAttached())
    _, actions = step(session, verdict(only(actions, AskVerify).call, 0, "a"))
    assert only(actions, Emit).chunk.tokens[0].logprob is None


def test_the_prompts_logprobs_come_with_the_first_chunk_and_not_again_after_a_loss():
    session, emit = prefilled(prompt_logprobs=0)
    assert emit.chunk.prompt_logprobs == OF_PROMPT
    session, _ = step(session, TargetLost())
    session, actions = step(session, TargetAttached())
    _, actions = step(session, verdict(only(actions, AskVerify).call, 0, "b", prompt_logprobs=OF_PROMPT))
    assert only(actions, Emit).chunk.prompt_logprobs == ()


def test_a_target_lost_before_its_first_verdict_costs_no_prompt_logprobs():
    session, _ = step(begun(prompt_logprobs=0), TargetAttached())
    session, _ = step(session, TargetLost())
    session, actions = step(session, TargetAttached())
    _, actions = step(session, verdict(only(actions, AskVerify).call, 0, "b", prompt_logprobs=OF_PROMPT))
    assert only(actions, Emit).chunk.prompt_logprobs == OF_PROMPT


def test_a_prompt_can_be_looked_at_without_an_answer():
    session, actions = start(max_tokens=0, prompt_logprobs=2)
    assert session.phase is Phase.ATTACHING
    session, actions = step(session, TargetAttached())
    call = only(actions, AskVerify).call
    session, actions = step(session, verdict(call, 0, "a", logprobs=(lp(-1.0),), prompt_logprobs=OF_PROMPT))
    chunk = only(actions, Emit).chunk
    assert (chunk.text, chunk.tokens, chunk.finish_reason) == ("", (), FinishReason.LENGTH)
    assert chunk.prompt_logprobs == OF_PROMPT
    assert only(actions, Finish).reason is FinishReason.LENGTH
    assert session.num_emitted == 0


@pytest.mark.parametrize("sampling", [{"min_tokens": 9}, {"ignore_eos": True}])
def test_the_end_of_a_grammar_is_the_end_of_the_answer(sampling):
    for grammar, ends in ((GRAMMAR, True), (None, False)):
        session, actions = step(begun(grammar=grammar, **sampling), TargetAttached())
        session, _ = step(session, verdict(only(actions, AskVerify).call, 0, EOS))
        assert (session.finish_reason is FinishReason.STOP) == ends


def test_every_option_of_the_sampling_transform_reaches_both_workers():
    sampling = SamplingParams(
        max_tokens=7,
        presence_penalty=0.1,
        frequency_penalty=0.2,
        repetition_penalty=1.3,
        grammar=GRAMMAR,
        logprobs=4,
        prompt_logprobs=5,
    )
    call = open_call(GenerationRequest("s", (1, 2, 3), sampling), frozenset({EOS}))
    transform = call.transform
    assert (call.max_len, call.logprobs, call.prompt_logprobs) == (10, 4, 5)
    assert (transform.presence_penalty, transform.frequency_penalty, transform.repetition_penalty) == (
        0.1,
        0.2,
        1.3,
    )
    assert (transform.answer_from, transform.grammar) == (3, GRAMMAR)
