"""The in-process pair on table models: no torch model, but the service's runner and session."""

from __future__ import annotations

import itertools

import pytest

from adasd import LocalPair
from adasd.config import SpeculationConfig
from adasd.errors import ContextTooLong, InvalidRequest
from adasd.requests import SamplingParams, SpeculationOptions
from adasd.results import Chunk
from adasd.testing.fake_engine import FakeEngine
from adasd.testing.table_model import TableModel

TARGET = TableModel.random(16, seed=3)


def pair(*, with_draft: bool = True, noise: float = 1.0, lookahead: bool = False) -> LocalPair:
    draft = FakeEngine(TARGET.disturbed(noise)) if with_draft else None
    return LocalPair(
        FakeEngine(TARGET),
        draft,
        lambda token_ids: "." * len(token_ids),
        frozenset(),
        speculation=SpeculationConfig(drafting="static", bypass=False),  # ignores the fakes' times
        lookahead=lookahead,
    )


def test_exact_answers_are_the_targets_own_and_both_slots_are_free_after():
    made = pair()
    static = SpeculationOptions(drafting="static")
    answer = made.generate((1, 2, 3), sampling=SamplingParams(40, temperature=0.0), speculation=static)
    assert list(answer.token_ids) == TARGET.greedy([1, 2, 3], 40)
    assert answer.report.num_accepted_tokens > 0
    assert made.target.num_free_slots == made.target.num_slots
    assert made.draft.num_free_slots == made.draft.num_slots


def test_without_a_draft_it_decodes_plainly():
    assert list(pair(with_draft=False).generate((1,), max_tokens=9).token_ids) == TARGET.greedy([1], 9)


def test_a_draft_with_a_shorter_context_than_the_answer_is_left_out(caplog):
    made = LocalPair(
        FakeEngine(TARGET), FakeEngine(TARGET, max_context=20), lambda ids: "." * len(ids), frozenset()
    )
    with caplog.at_level("INFO", "adasd.session.slots"):
        answer = made.generate((1, 2, 3), max_tokens=40)
    assert list(answer.token_ids) == TARGET.greedy([1, 2, 3], 40)
    assert answer.report.num_draft_tokens == 0
    assert "gets no draft" in caplog.text
    assert "a slot holds 1 to 20 tokens" in caplog.text
    assert made.generate((1, 2, 3), max_tokens=10).report.num_draft_tokens > 0


def test_what_cannot_be_had_is_refused_with_what_can():
    made = pair()
    with pytest.raises(InvalidRequest, match="mode is 'fast'; possible are off, exact, adaptive"):
        made.generate((1,), mode="fast")
    with pytest.raises(InvalidRequest, match="no tokens"):
        made.generate(())
    with pytest.raises(
        ContextTooLong, match=r"length is 256 tokens.* 1003 tokens \(3 in the prompt, 1000 in"
    ):
        made.generate((1, 2, 3), max_tokens=1000)


@pytest.mark.parametrize("noise", [0.1, 1.0])
@pytest.mark.parametrize("seed", [None, 5])
def test_looking_ahead_in_a_thread_changes_no_answer(noise, seed):
    made = pair(noise=noise, lookahead=True)
    sampling = SamplingParams(100, temperature=0.0 if seed is None else 1.0, seed=seed)
    plain = pair(with_draft=False).generate((1, 2, 3), sampling=sampling)
    num_used = 0
    for _ in range(20):
        answer = made.generate(
            (1, 2, 3), sampling=sampling, speculation=SpeculationOptions(drafting="static")
        )
        assert answer.token_ids == plain.token_ids
        num_used += answer.report.num_ahead_used
    assert num_used > 0 or noise == 1.0, "with a poor draft, measured times may say that it does not pay"
    for engine in (made.target, made.draft):
        assert engine.num_free_slots == engine.num_slots
        engine.check_integrity()


def test_an_answer_that_nobody_reads_to_its_end_gives_its_slots_back_in_the_middle_of_a_thread():
    made = pair(lookahead=True)
    for num_read in range(4):
        events = made.stream((1, 2, 3), SamplingParams(50, temperature=0.0), SpeculationOptions())
        for _ in range(num_read):
            next(events)
        events.close()
        for engine in (made.target, made.draft):
            assert engine.num_free_slots == engine.num_slots


def test_answers_of_one_pair_may_be_read_in_turn():
    for lookahead in (False, True):
        made = pair(lookahead=lookahead)
        prompts = [(1, 2, 3), (4, 5), (6,)]
        streams = [
            made.stream(prompt, SamplingParams(30, temperature=0.0), SpeculationOptions())
            for prompt in prompts
        ]
        tokens: list[list[int]] = [[] for _ in prompts]
        for events in itertools.zip_longest(*streams):
            for found, event in zip(tokens, events, strict=True):
                if isinstance(event, Chunk):
                    found += [token.id for token in event.tokens]
        assert tokens == [TARGET.greedy(list(prompt), 30) for prompt in prompts]


@pytest.mark.parametrize("lookahead", [False, True])
def test_an_engines_error_reaches_the_caller_as_it_is(monkeypatch, lookahead):
    made = pair(lookahead=lookahead)

    def broken():
        raise ZeroDivisionError("a bug of the draft")

    monkeypatch.setattr(made.draft, "step", broken)
    with pytest.raises(ZeroDivisionError, match="a bug of the draft"):
        made.generate((1, 2, 3), max_tokens=200)
    assert made.target.num_free_slots == made.target.num_slots
    assert made.draft.num_free_slots == made.draft.num_slots


async def test_an_event_loop_in_the_same_thread_is_not_needed_and_does_no_harm():
    assert list(pair().generate((1, 2, 3), max_tokens=20).token_ids) == TARGET.greedy([1, 2, 3], 20)
