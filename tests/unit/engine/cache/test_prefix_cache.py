"""Prefix caching: common beginnings of prompts are computed once, and no answer changes.

Every test runs on contiguous slots and on pages.
"""

import functools
import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adasd.engine.cache.kv_cache import KVCache
from adasd.engine.cache.pages import Pages
from adasd.engine.cache.prefix_cache import PrefixCache
from adasd.engine.forward.batch import ForwardBatch
from adasd.engine.forward.protocol import ForwardOver
from adasd.engine.work import StepInput
from adasd.rounds import DraftCall, OpenCall, PrefixStats, SamplingTransform, StopRule, Verdict, VerifyCall
from adasd.testing.loops import GREEDY, draft, plain, run_until_idle, speculative, verify
from tests.unit.engine import models
from tests.unit.engine.models import generate, prompts

SYSTEM, *QUESTIONS = prompts(64, 9, 5, 17, 30, seed=5)
SETTINGS = {}


@pytest.fixture(params=["contiguous", "paged"], autouse=True)
def cache(request, monkeypatch):
    monkeypatch.setitem(SETTINGS, "cache", request.param)
    return request.param


def engine(name, seed=0, **settings):
    return models.engine(name, seed, **SETTINGS | settings)


def check_contents(e):
    """Checks that each slot's keys and values equal those computed afresh from its tokens."""
    e.check_integrity()
    owned = [(slot.index, slot.tokens) for slot in e._slots._by_session.values() if slot.is_placed]
    for row, tokens in [*e._slots.layout.held(), *owned]:
        if not tokens:
            continue
        fresh = KVCache(e.forward.layers, PrefixCache(1, e.max_context), e.forward.dtype, e.forward.device)
        with torch.inference_mode():
            batch = ForwardBatch([StepInput(0, 0, tokens, 1)], fresh.layout, e.forward.device)
            e.forward(batch, fresh)
        places = [place for run in e._slots.layout.runs(row, 0, len(tokens)) for place in run]
        for held, right in zip(e.cache.tokens, fresh.tokens, strict=True):
            assert torch.allclose(held[places], right[: len(tokens)], atol=1e-4)


def ask(e, session, prompt, num_tokens=6):
    """Prefill and plain decoding in a slot that stays open; returns the answer and the number of cached tokens."""
    e.open(OpenCall(session, GREEDY, 150))
    verdict = verify(e, VerifyCall(session, 0, 0, tuple(prompt)))
    answer = [verdict.next_token]
    while len(answer) < num_tokens:
        call = VerifyCall(session, len(answer), e.cached_len(session), (answer[-1],))
        answer.append(verify(e, call).next_token)
    return answer, verdict.cached_tokens


@pytest.mark.parametrize("name", ["llama", "gpt-neox"])
def test_a_chat_of_several_turns_computes_each_turn_once(name):
    e = engine(name)
    history = list(SYSTEM)
    held = 0
    for turn, question in enumerate(QUESTIONS[:3]):
        history += question
        answer, num_found = ask(e, f"turn {turn}", history)
        assert num_found == held
        assert answer == generate(name, history, 6)
        e.close(f"turn {turn}")
        history += answer
        held = len(history) - 1  # the answer's last token was not fed
    check_contents(e)
    assert [slot for slot, _ in e._slots.layout.held()] == [0], "the chat stays in one slot"


def test_sessions_that_follow_each_other_share_a_system_prompt():
    e = engine("llama", num_slots=3)
    found = []
    for i, question in enumerate(QUESTIONS):
        answer, num_found = ask(e, str(i), SYSTEM + question)
        assert answer == generate("llama", SYSTEM + question, 6)
        found.append(num_found)
        e.close(str(i))
        check_contents(e)
    assert found == [0, 64, 64, 64]
    num_queried = sum(64 + len(question) for question in QUESTIONS)
    assert e.prefix_stats == PrefixStats(num_queried, 3 * 64)


def test_sessions_that_come_together_compute_a_system_prompt_once():
    """Each finds what the previous one has computed so far; here a chunk is half of the system prompt."""
    e = engine("llama", prefill_chunk=32)
    for i, question in enumerate(QUESTIONS):
        e.open(OpenCall(str(i), GREEDY, 150))
        e.submit(VerifyCall(str(i), 0, 0, SYSTEM + question))
    num_fed, forward = [], e.forward

    class Counting(ForwardOver):
        def __call__(self, batch, cache):
            num_fed.append(len(batch.ids))
            return self.inner(batch, cache)

    e.runner.forward = Counting(forward, "counting")
    verdicts = {int(answer.session): answer for answer in run_until_idle(e)}
    assert sum(num_fed) <= 64 + 32 + sum(map(len, QUESTIONS))
    for i, question in enumerate(QUESTIONS):
        assert verdicts[i].next_token == generate("llama", SYSTEM + question, 1)[0]
    assert sorted(v.cached_tokens for v in verdicts.values()) == [0, 32, 64, 64]
    e.runner.forward = forward
    check_contents(e)
    for i in range(len(QUESTIONS)):
        e.close(str(i))


def test_a_roll_back_into_the_found_part_disturbs_nobody():
    e = engine("llama")
    first, _ = ask(e, "first", SYSTEM + QUESTIONS[0])
    e.open(OpenCall("second", GREEDY, 150))
    assert verify(e, VerifyCall("second", 0, 0, SYSTEM + QUESTIONS[1])).cached_tokens == 64
    other = SYSTEM[:20] + QUESTIONS[3]
    verdict = verify(e, VerifyCall("second", 1, 20, QUESTIONS[3]))
    assert (verdict.cached_tokens, verdict.next_token) == (0, generate("llama", other, 1)[0])
    check_contents(e)
    again = verify(e, VerifyCall("first", 9, 64, (*QUESTIONS[0], first[0]), tuple(first[1:])))
    assert again.num_accepted == 5
    e.close("second")
    answer, num_found = ask(e, "third", SYSTEM + QUESTIONS[2])
    assert (num_found, answer) == (64, generate("llama", SYSTEM + QUESTIONS[2], 6))
    e.close("first")
    e.close("third")


def test_rejected_tokens_are_not_found():
    e = engine("llama")
    prompt = SYSTEM[:20]
    right = generate("llama", prompt, 1)[0]
    wrong = (right + 1) % 97
    e.open(OpenCall("s", GREEDY, 60))
    verify(e, VerifyCall("s", 0, 0, prompt, (wrong,) * 10))
    e.close("s")
    _, num_found = ask(e, "t", (*prompt, *(wrong,) * 10))
    assert num_found == 20
    check_contents(e)
    e.close("t")


def test_what_a_failed_call_fed_is_not_found():
    e = engine("llama", prefill_chunk=40)
    embedding = e.forward._embedding
    spoilt = embedding[50].clone()
    prompt = (*SYSTEM, 50, 1, 2)
    embedding[50] = float("nan")
    e.open(OpenCall("s", GREEDY, 150))
    e.submit(VerifyCall("s", 0, 0, prompt))
    while e.num_pending:
        e.step()
    e.close("s")
    embedding[50] = spoilt
    answer, num_found = ask(e, "t", prompt)
    assert (num_found, answer) == (0, generate("llama", prompt, 6))
    check_contents(e)
    e.close("t")


def test_a_draft_finds_prefixes_too():
    draft_engine, target = engine("llama", seed=1), engine("llama")
    prompt = SYSTEM + QUESTIONS[0]
    expected = generate("llama", prompt, 20)
    for _ in range(3):
        assert speculative(draft_engine, target, prompt, 20, StopRule(4))[0] == expected
        check_contents(draft_engine)
        check_contents(target)
    assert draft_engine.prefix_stats.num_hits >= 2 * (len(prompt) - 1)
    assert target.prefix_stats.num_hits >= 2 * (len(prompt) - 1)


def test_a_draft_call_that_only_feeds_still_answers():
    e = engine("llama")
    for _ in range(2):
        e.open(OpenCall("s", GREEDY, 100))
        assert draft(e, DraftCall("s", 0, 0, SYSTEM, StopRule(0))).base_len == 64
        assert e.cached_len("s") == 64
        e.close("s")
    assert e.prefix_stats == PrefixStats(128, 63)


def test_with_a_seed_the_answer_is_the_same_from_a_found_prompt():
    e = engine("llama")
    transform = SamplingTransform(temperature=1.5, seed=3)
    assert plain(e, SYSTEM, 20, transform) == plain(e, SYSTEM, 20, transform)
    assert e.prefix_stats.num_hits == 63


def test_switched_off_nothing_is_looked_up():
    e = engine("llama", prefix_cache=False)
    for i in range(2):
        assert ask(e, str(i), SYSTEM)[1] == 0
        e.close(str(i))
    assert e.prefix_stats == PrefixStats()


def test_warm_up_leaves_nothing_to_be_found():
    e = engine("llama")
    e.warm_up()
    assert ask(e, "s", (0,) * 30)[1] == 0
    assert e.prefix_stats == PrefixStats(30, 0)
    e.close("s")


def test_the_longest_unused_text_goes_first():
    e = engine("llama", num_slots=2)
    for name, text in (("a", QUESTIONS[3]), ("b", QUESTIONS[2])):
        ask(e, name, text)
        e.close(name)
    assert ask(e, "again", QUESTIONS[3])[1] == 29
    e.close("again")
    assert ask(e, "new", SYSTEM)[1] == 0
    e.close("new")
    assert ask(e, "kept", QUESTIONS[3])[1] == 29
    e.close("kept")
    assert ask(e, "gone", QUESTIONS[2])[1] == 0
    e.close("gone")


@functools.cache
def both_engines(cache):
    """With and without prefix caching; loaded once."""
    return [engine("llama", num_slots=4, prefill_chunk=33, prefix_cache=flag) for flag in (True, False)]


def forget(e, reuse):
    """Empty the cache's bookkeeping."""
    layout = e._slots.layout
    if isinstance(layout, Pages):
        e._slots.layout = Pages(4, e.max_context, layout.page_size, layout.num_pages, reuse)
    else:
        e._slots.layout = PrefixCache(4, e.max_context, reuse)
    e.cache.layout = e._slots.layout


@settings(
    max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # the same for all examples
@given(st.integers(0, 2**32))
def test_random_sessions_answer_as_without(cache, seed):
    """Texts that share beginnings; prefill, blocks, roll-backs, drafts and closings in any order.

    Every verdict is that of the same call without prefix caching, and at the end every slot holds its tokens' cache.
    """
    e, plainly = both_engines(cache)
    for one in (e, plainly):  # every example starts empty, so it can be repeated
        forget(one, one is e)
    chance = random.Random(seed)
    parts = prompts(33, 12, 7, seed=chance.randrange(3))
    sessions: dict[str, list[int]] = {}
    for number in range(chance.randint(5, 25)):
        if e.num_free_slots and (not sessions or chance.random() < 0.4):
            text = [token for _ in range(chance.randint(1, 3)) for token in chance.choice(parts)]
            sessions[f"s{number}"] = text[: chance.randint(1, len(text))]
            for one in (e, plainly):
                one.open(OpenCall(f"s{number}", GREEDY, 160))
        busy = chance.sample(sorted(sessions), chance.randint(1, len(sessions)))
        calls = []
        for session in busy:
            text = sessions[session]
            keep = min(chance.choice([160, 160, chance.randint(0, 40)]), e.cached_len(session), len(text) - 1)
            feed = tuple(text[keep:])
            if chance.random() < 0.25:
                calls.append(DraftCall(session, number, keep, feed, StopRule(chance.randint(0, 3))))
            else:
                block = tuple(chance.choice(parts)[: chance.randint(0, 3)])
                calls.append(VerifyCall(session, number, keep, feed, block))
        answers = []
        for one in (e, plainly):
            for call in calls:
                one.submit(call)
            answers.append({answer.session: answer for answer in run_until_idle(one)})
            one.check_integrity()
        for session in sorted(sessions.keys() & answers[0].keys()):
            answer, other = answers[0][session], answers[1][session]
            if isinstance(answer, Verdict):
                same = (answer.num_accepted, answer.next_token)
                assert same == (other.num_accepted, other.next_token)
                if len(sessions[session]) < 100:
                    sessions[session].append(answer.next_token)
            else:
                assert answer.tokens == other.tokens
            assert e.cached_len(session) == plainly.cached_len(session)
            if chance.random() < 0.3:
                del sessions[session]
                e.close(session)
                plainly.close(session)
    check_contents(e)
    for session in sessions:
        e.close(session)
        plainly.close(session)
    assert e.num_free_slots == e.num_slots
