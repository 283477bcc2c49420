"""Token histories in the engine: no cost to other sessions, failures stay in theirs, roll-backs leave no trace."""

from __future__ import annotations

import pytest
import torch

from adasd.engine.cache.slots import Slot
from adasd.engine.sampling.logits_processors import Positions, process
from adasd.engine.sampling.logits_state import LogitsState
from adasd.engine.work import StepInput, VerifyWork
from adasd.errors import InvalidRequest
from adasd.requests import Grammar, GrammarKind
from adasd.rounds import CallFailed, DraftCall, OpenCall, SamplingTransform, StopRule, VerifyCall
from adasd.testing.loops import plain, run_until_idle, verify
from adasd.text.grammar import Matcher
from tests.unit.engine.models import GRAMMARS, VOCAB_SIZE, engine, prompts

PROMPT = prompts(9)[0]
SHAPED = SamplingTransform(
    0.0,
    presence_penalty=0.5,
    frequency_penalty=0.5,
    repetition_penalty=1.3,
    answer_from=len(PROMPT),
    grammar=Grammar(GrammarKind.REGEX, "([a-m]+[0-9])+"),
)


def wanted(transform: SamplingTransform, tokens: tuple[int, ...], state: LogitsState | None) -> Positions:
    slot = Slot("s", 64, logits_state=state)
    work = VerifyWork(slot, transform, 0.0, call=VerifyCall("s", 0, 0, tokens))
    return Positions(work, StepInput(0, 0, list(tokens), 1), slice(0, 1))


def test_logits_of_sessions_without_a_state_are_not_even_copied():
    logits = torch.randn(1, VOCAB_SIZE)
    processed, errors = process({0: wanted(SamplingTransform(), (1, 2), None)}, logits)
    assert processed is logits
    assert errors == {}
    assert (
        LogitsState.of(SamplingTransform(logit_bias=((1, 2.0),), top_k=3, seed=4), VOCAB_SIZE, None) is None
    )


def test_shaping_leaves_the_raw_logits_alone():
    """The raw logits are needed for log-probabilities."""
    logits = torch.randn(1, VOCAB_SIZE)
    before = logits.clone()
    state = LogitsState.of(SHAPED, VOCAB_SIZE, GRAMMARS)
    processed, _ = process({0: wanted(SHAPED, PROMPT, state)}, logits)
    assert torch.equal(logits, before)
    assert not torch.equal(processed, logits)


def test_what_a_prefix_cache_found_counts_as_if_it_had_been_fed():
    (long_prompt,) = prompts(60)
    transform = SamplingTransform(
        0.0, repetition_penalty=1.5, frequency_penalty=0.3, answer_from=40
    )  # 20 tokens of answer
    expected = plain(engine("llama", prefix_cache=False), long_prompt, 12, transform)
    assert expected != plain(engine("llama"), long_prompt, 12), "penalties must matter here"
    e = engine("llama")
    for _ in range(3):
        assert plain(e, long_prompt, 12, transform) == expected
    assert e.prefix_stats.num_hits > 0


def test_a_pass_that_fails_leaves_no_trace_in_the_histories(monkeypatch):
    """The pass of two sessions fails, is retried in halves, and one half fails again."""
    expected = plain(engine("llama"), PROMPT, 6, SHAPED)
    e, forward, num_left = engine("llama"), None, [2]
    for session in ("a", "b"):
        e.open(OpenCall(session, SHAPED, 40))
        assert verify(e, VerifyCall(session, 0, 0, PROMPT)).next_token == expected[0]
    forward = e.forward.__class__.__call__

    def failing(self, batch, cache):
        if num_left[0]:
            num_left[0] -= 1
            raise RuntimeError("out of memory, says the test")
        return forward(self, batch, cache)

    monkeypatch.setattr(e.forward.__class__, "__call__", failing)
    for session in ("a", "b"):
        e.submit(VerifyCall(session, 1, len(PROMPT), (expected[0],), tuple(expected[1:3])))
    answers = {answer.session: answer for answer in e.step()}
    assert sorted(isinstance(answer, CallFailed) for answer in answers.values()) == [False, True]
    e.check_integrity()
    for session, answer in answers.items():
        if isinstance(answer, CallFailed):
            answer = verify(e, VerifyCall(session, 2, len(PROMPT), (expected[0],), tuple(expected[1:3])))
        assert (answer.num_accepted, answer.next_token) == (2, expected[3])
        e.close(session)


def test_a_grammar_that_becomes_too_hard_fails_its_own_session_only(monkeypatch):
    e = engine("llama")
    e.open(OpenCall("hard", SHAPED, 40))
    e.open(OpenCall("easy", SamplingTransform(0.0), 40))
    easy = plain(engine("llama"), PROMPT, 1)

    def give_up(*_, **__):
        raise InvalidRequest("the grammar became too hard to follow", "grammar")

    monkeypatch.setattr(Matcher, "masks", give_up)
    for session in ("hard", "easy"):
        e.submit(VerifyCall(session, 0, 0, PROMPT))
    answers = {}
    while e.num_pending:
        answers |= {answer.session: answer for answer in e.step()}
    assert answers["easy"].next_token == easy[0]
    assert isinstance(answers["hard"].error, InvalidRequest)
    assert e.cached_len("hard") == 0
    e.check_integrity()


def test_a_grammar_without_a_token_that_the_model_knows_is_an_error_and_not_a_guess():
    e = engine("llama")
    e.runner.vocab_size = 5  # letters ! to %
    e.open(OpenCall("s", SamplingTransform(0.0, grammar=Grammar(GrammarKind.REGEX, "z"), answer_from=9), 40))
    e.submit(VerifyCall("s", 0, 0, (0, 1, 2, 3, 4, 0, 1, 2, 3)))
    (answer,) = e.step()
    assert isinstance(answer, CallFailed)
    assert "leaves no token" in str(answer.error)
    e.submit(DraftCall("s", 1, 0, (0, 1, 2, 3, 4, 0, 1, 2, 3), StopRule(2)))
    (drafted,) = run_until_idle(e)
    assert len(drafted.tokens) == 2, "a draft may guess: the target corrects it"


@pytest.mark.parametrize("compiled", ["on", "off"])
def test_prompts_are_scored_in_pieces_beside_others_as_alone(compiled):
    (long_prompt,) = prompts(110)
    e = engine("llama", compile=compiled)
    transform = SamplingTransform(0.0, answer_from=len(long_prompt))
    said = {}
    for chunk, others in ((500, 0), (40, 0), (40, 3), (7, 1)):
        e = engine("llama", compile=compiled, prefill_chunk=chunk)
        for i in range(others):
            e.open(OpenCall(f"other-{i}", SamplingTransform(0.0), 130))
            e.submit(DraftCall(f"other-{i}", 0, 0, PROMPT, StopRule(20)))
        e.open(OpenCall("s", transform, 130, prompt_logprobs=2))
        e.submit(VerifyCall("s", 0, 0, long_prompt))
        answers = {answer.session: answer for answer in run_until_idle(e)}
        said[chunk, others] = [one.logprob for one in answers["s"].prompt_logprobs]
    alone = said[500, 0]
    assert len(alone) == 109
    assert all(one == pytest.approx(alone, abs=1e-4) for one in said.values())
