"""Pages run out: the newest sessions are preempted, their answers go on later, and nothing is lost."""

import random

import pytest
import torch

from adasd.engine.cache.kv_cache import KVCache
from adasd.engine.cache.layers import CacheNeeds
from adasd.engine.cache.pages import NO_PAGE, ROLL_BACK
from adasd.engine.engine import TorchEngine
from adasd.errors import InvalidRequest, StaleCache
from adasd.rounds import (
    CacheUse,
    CallFailed,
    DraftBlock,
    DraftCall,
    OpenCall,
    SamplingTransform,
    StopRule,
    Verdict,
    VerifyCall,
)
from adasd.testing.loops import GREEDY, draft, plain, plain_batch, run_until_idle, speculative, verify
from tests.unit.engine.models import engine, generate, prompts

PAGE, CONTEXT = 16, 160


def paged(num_pages, name="llama", seed=0, **settings) -> TorchEngine:
    """An engine whose cache has so many pages of 16 tokens for each table."""
    e = engine(name, seed, cache="paged", cache_bytes=10**9, **settings)
    needs = CacheNeeds.of(e.forward.layers, e.forward.dtype)
    num_pages *= len(needs.windows)
    made = engine(name, seed, cache="paged", cache_bytes=num_pages * needs.bytes_per_place * PAGE, **settings)
    assert made._slots.layout.num_pages == num_pages
    return made


def all_free(e):
    e.check_integrity()
    return (e.num_free_slots, e._slots.layout.num_free_pages) == (e.num_slots, e._slots.layout.num_pages)


def test_sixty_four_sessions_complete_in_a_cache_that_holds_twenty_of_them():
    """They come together, grow, and would take three times the pages; each answers as if alone."""
    chance = random.Random(0)
    texts = prompts(*[chance.choice([3, 20, 70, 110]) for _ in range(64)])
    answers = {str(i): [] for i in range(64)}
    e = paged(20 * CONTEXT // PAGE, num_slots=64)
    for i, text in enumerate(texts):
        e.open(OpenCall(str(i), GREEDY, CONTEXT))
        e.submit(VerifyCall(str(i), 0, 0, text))
    while e.num_pending:
        for verdict in e.step():
            answer = answers[verdict.session]
            answer.append(verdict.next_token)
            if len(answer) < 40:
                e.submit(VerifyCall(verdict.session, 1, e.cached_len(verdict.session), (answer[-1],)))
            else:
                e.close(verdict.session)
    assert e._rooms.num_preempted > 10
    assert all_free(e)
    alone = plain_batch(engine("llama", num_slots=64), texts, 40)
    assert list(answers.values()) == alone


@pytest.mark.parametrize("prefix_cache", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_rounds_of_every_kind_go_on_after_a_preemption(seed, prefix_cache):
    """Random drafts, blocks and roll-backs of sessions that do not all fit."""
    chance = random.Random(seed)
    e = paged(11, num_slots=6, prefill_chunk=33, prefix_cache=prefix_cache)
    texts = dict(enumerate(prompts(*[chance.randint(1, 70) for _ in range(6)], seed=seed)))
    truth = {i: generate("llama", text, 30) for i, text in texts.items()}
    done = dict.fromkeys(texts, 0)
    for i, text in texts.items():
        e.open(OpenCall(str(i), GREEDY, 120))
        e.submit(VerifyCall(str(i), 0, 0, text))
    while any(done[i] < 25 for i in texts):
        for answer in e.step():
            i = int(answer.session)
            assert not isinstance(answer, CallFailed), answer
            if isinstance(answer, Verdict):
                done[i] += answer.num_accepted + 1
                assert answer.next_token == truth[i][done[i] - 1]
            else:
                assert list(answer.tokens) == truth[i][done[i] :][: len(answer.tokens)]
            if done[i] >= 25:
                e.close(str(i))
                continue
            tokens = [*texts[i], *truth[i][: done[i]]]
            keep = min(chance.choice([chance.randint(0, 9), 999]), len(tokens) - 1, e.cached_len(str(i)))
            feed = tuple(tokens[keep:])
            if chance.random() < 0.3:
                e.submit(DraftCall(str(i), 0, keep, feed, StopRule(chance.randint(1, 4))))
            else:
                e.submit(
                    VerifyCall(str(i), 0, keep, feed, tuple(truth[i][done[i] :][: chance.randint(0, 3)]))
                )
        e.check_integrity()
    assert e.cache_use == CacheUse(e._slots.layout.num_pages, 16, 0, e._rooms.num_preempted)
    assert e._rooms.num_preempted > 0
    assert all_free(e)


def test_penalties_and_seeds_follow_the_text_through_a_preemption():
    transform = SamplingTransform(temperature=1.2, seed=5, frequency_penalty=1.5)
    texts = prompts(30, 60, 90, 40)
    alone = [plain(engine("llama", fast=True), text, 30, transform) for text in texts]
    e = paged(12)
    assert plain_batch(e, texts, 30, transform) == alone
    assert e._rooms.num_preempted > 0


def test_a_preempted_draft_call_that_waits_for_room_may_be_replaced():
    e = paged(10)
    old, new = prompts(80, 60)
    for session, text in (("old", old), ("new", new)):
        e.open(OpenCall(session, GREEDY, CONTEXT))
        draft(e, DraftCall(session, 0, 0, text, StopRule(1)))
    e.submit(DraftCall("old", 1, 80, tuple(range(40)), StopRule(12)))
    e.step()
    assert not e._slots.get("new").is_placed
    e.submit(DraftCall("new", 1, 60, (5,), StopRule(4)))
    e.submit(DraftCall("new", 2, 60, (6,), StopRule(4)))
    answers = {(answer.session, answer.epoch): answer for answer in run_until_idle(e)}
    assert list(answers["new", 2].tokens) == generate("llama", (*new, 6), 4)
    assert len(answers) == 2


def test_an_overdue_block_drafts_nothing_more_after_a_preemption():
    """Its tokens are fed again, since they are what the next call may keep."""
    now = [0.0]
    e = paged(10)
    e._clock = lambda: now[0]
    old, new = prompts(80, 60)
    for session in ("old", "new"):
        e.open(OpenCall(session, GREEDY, CONTEXT))
    draft(e, DraftCall("old", 0, 0, old, StopRule(1)))
    e.submit(DraftCall("new", 0, 0, new, StopRule(9, row_len=8), patience_s=1.0))
    drafting = e._scheduler.waiting["new"]
    while len(drafting.proposed) < 3:
        e.step()
    e.submit(DraftCall("old", 1, 80, tuple(range(25)), StopRule(12)))
    assert e.step() == []
    assert e._rooms.num_preempted > 0
    num, now[0] = len(drafting.proposed), 5.0
    (block,) = [answer for answer in run_until_idle(e) if answer.session == "new"]
    assert list(block.tokens) == generate("llama", new, num)
    assert e._slots.get("new").tokens == [*new, *block.tokens[: num - 1]]
    e.check_integrity()


def test_the_newest_session_goes_and_the_oldest_never():
    e = paged(10)
    first, second, third, long = prompts(60, 60, 30, 60)
    for session, text in (("first", first), ("second", second), ("third", third)):
        e.open(OpenCall(session, GREEDY, 100))
        verify(e, VerifyCall(session, 0, 0, text))
    assert [slot.session for slot in e._slots.newest_placed()] == ["third", "second", "first"]
    e.open(OpenCall("fourth", GREEDY, 100))
    e.submit(VerifyCall("fourth", 0, 0, long))
    e.submit(VerifyCall("first", 1, 60, (1,)))
    (answer,) = e.step()
    assert (answer.session, e._rooms.num_preempted) == ("first", 0), "the newest one waits for room"
    e.submit(VerifyCall("first", 2, 61, tuple(range(20))))
    (answer,) = e.step()
    assert answer.session == "first"
    assert [slot.session for slot in e._slots.newest_placed() if slot.tokens] == ["second", "first"]
    assert e.cached_len("third") == 30, "its tokens are still valid: the next call feeds them"
    e.close("first")
    assert verify_all(e) == {"fourth": generate("llama", long, 1)[0]}
    assert verify(e, VerifyCall("third", 1, 30, (4,))).next_token == generate("llama", (*third, 4), 1)[0]
    for session in ("second", "third", "fourth"):
        e.close(session)
    assert all_free(e)


def verify_all(e):
    return {answer.session: answer.next_token for answer in run_until_idle(e)}


def test_sessions_that_say_nothing_give_way_in_the_end():
    """The older ones hold everything and have no call: the newer one's call is answered all the same."""
    e = paged(10)
    texts = prompts(70, 70, 70)
    for i, text in enumerate(texts[:2]):
        e.open(OpenCall(str(i), GREEDY, 100))
        verify(e, VerifyCall(str(i), 0, 0, text))
    e.open(OpenCall("2", GREEDY, 100))
    assert verify(e, VerifyCall("2", 0, 0, texts[2])).next_token == generate("llama", texts[2], 1)[0]
    assert verify(e, VerifyCall("1", 1, 70, (3,))).next_token == generate("llama", (*texts[1], 3), 1)[0]
    for i in range(3):
        e.close(str(i))
    assert all_free(e)


def preempted(e, text=None):
    """An open session without its pages; returns its tokens."""
    text = text or prompts(50)[0]
    e.open(OpenCall("s", GREEDY, 120))
    verify(e, VerifyCall("s", 0, 0, text))
    e._rooms._preempt(e._slots.get("s"), e._scheduler.waiting)
    e.check_integrity()
    return text


def test_a_preempted_session_can_roll_back_and_keeps_no_more_than_it_had():
    e = paged(10)
    text = preempted(e)
    with pytest.raises(StaleCache, match="keep 51 cached tokens, the worker holds 50"):
        e.submit(VerifyCall("s", 1, 51, (1,)))
    assert verify(e, VerifyCall("s", 1, 20, (7,))).next_token == generate("llama", (*text[:20], 7), 1)[0]
    assert e.cached_len("s") == 21
    e.close("s")


def test_a_preempted_session_can_be_closed():
    e = paged(10)
    preempted(e)
    e.close("s")
    assert all_free(e)


def test_a_newer_draft_call_replaces_one_that_had_fed_half_of_the_lost_tokens():
    e = paged(10, prefill_chunk=16, prefix_cache=False)
    text = preempted(e)
    e.submit(DraftCall("s", 1, 50, (1,), StopRule(2)))
    e.step()
    assert 0 < e._slots.get("s").cached_len < 50
    e.submit(DraftCall("s", 2, 50, (2,), StopRule(3)))
    (answer,) = run_until_idle(e)
    assert isinstance(answer, DraftBlock)
    assert list(answer.tokens) == generate("llama", (*text, 2), 3)
    e.close("s")


def test_a_failed_pass_of_a_preempted_session_leaves_its_tokens_valid():
    e = paged(10)
    text = preempted(e)
    embedding = e.forward._embedding
    spoilt = embedding[96].clone()
    embedding[96] = float("nan")
    e.submit(VerifyCall("s", 1, 50, (96,)))
    (failed,) = [answer for _ in range(9) for answer in e.step()]
    assert isinstance(failed, CallFailed)
    assert e.cached_len("s") == 50
    embedding[96] = spoilt
    assert verify(e, VerifyCall("s", 2, 50, (96,))).next_token == generate("llama", (*text, 96), 1)[0]
    e.close("s")
    assert all_free(e)


def test_a_page_that_cannot_be_copied_costs_a_computation_and_no_answer(monkeypatch):
    def fails(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    e = paged(20)
    text = prompts(60)[0]
    e.open(OpenCall("s", GREEDY, 100))
    verify(e, VerifyCall("s", 0, 0, text))
    monkeypatch.setattr(KVCache, "copy_page", fails)
    e.open(OpenCall("t", GREEDY, 100))
    e.submit(VerifyCall("t", 0, 0, (*text[:28], 5)))
    monkeypatch.undo()
    assert verify_all(e) == {"t": generate("llama", (*text[:28], 5), 1)[0]}
    e.close("s")
    e.close("t")


def test_an_early_exit_draft_of_a_preempted_session_is_empty_and_its_verdict_right():
    e = paged(10, early_exit=True)
    text = preempted(e)
    assert draft(e, DraftCall("s", 1, 50, (1,), StopRule(3))).tokens == ()
    assert verify(e, VerifyCall("s", 2, 50, (1,))).next_token == generate("llama", (*text, 1), 1)[0]
    assert draft(e, DraftCall("s", 3, 51, (2,), StopRule(3))).tokens != ()
    e.submit(DraftCall("s", 4, 51, (2,), StopRule(9)))
    e._rooms._preempt(e._slots.get("s"), e._scheduler.waiting)
    (answer,) = run_until_idle(e)
    assert answer.tokens == ()
    assert e.cached_len("s") == 51
    e.close("s")
    assert all_free(e)


@pytest.mark.parametrize("name", ["gpt-neox", "mistral-window", "gemma3-window", "qwen3"])
def test_speculation_on_pages_changes_nothing(name):
    (prompt,) = prompts(40)
    pair = paged(10, name, seed=1), paged(10, name)
    assert speculative(*pair, prompt, 40, StopRule(4))[0] == generate(name, prompt, 40)


# --------------------------------------------------------------------------- windows


def windowed(num_pages=None, name="mistral-window", **settings) -> TorchEngine:
    """An engine over a model with a window of 7 in each layer, on pages of 16."""
    settings = {"prefill_chunk": 16, "max_context": CONTEXT} | settings
    if num_pages is not None:
        return paged(num_pages, name, **settings)
    return engine(name, cache="paged", cache_bytes=10**9, **settings)


def most_pages(e, work):
    """Run the work; returns the most pages that were in use between steps."""
    most, layout, step = 0, e._slots.layout, e.step

    def watched():
        nonlocal most
        answers = step()
        most = max(most, layout.num_pages - layout.num_free_pages)
        return answers

    e.step = watched
    try:
        work()
    finally:
        e.step = step
    return most


@pytest.mark.parametrize("prefix_cache", [True, False])
def test_a_session_holds_no_more_pages_than_its_window_and_its_text_is_the_same(prefix_cache):
    (text,) = prompts(100)
    e = windowed(prefix_cache=prefix_cache)
    found = []
    most = most_pages(e, lambda: found.extend(plain(e, text, 50)))
    assert found == generate("mistral-window", text, 50)
    assert most <= 2 + (7 + ROLL_BACK + 16) // PAGE < 150 // PAGE
    assert all_free(e)


@pytest.mark.parametrize(
    ("name", "windows"), [("mistral-window", (7,)), ("gemma3-window", (None, *[7] * 5)), ("llama", (None,))]
)
def test_layers_with_a_window_have_a_table_of_their_own(name, windows):
    e = engine(name, cache="paged")
    assert e._slots.layout.windows == windows
    assert {layer.window for layer in e.forward.layers} == set(windows)


def test_sessions_with_a_window_share_beginnings_grow_and_are_preempted_like_others():
    chance = random.Random(3)
    start = prompts(60)[0]
    texts = [(*start[: chance.choice([30, 60])], *text) for text in prompts(*[30] * 12)]
    alone = [generate("mistral-window", text, 30) for text in texts]
    e = windowed(24, num_slots=12, max_context=None)
    assert plain_batch(e, texts, 30) == alone
    assert e._rooms.num_preempted > 0
    assert e.prefix_stats.num_hits > 0
    assert all_free(e)


def test_a_roll_back_far_behind_the_window_costs_a_computation_and_no_answer():
    e = windowed(10, prefix_cache=False)
    text, short = prompts(150, 20)
    e.open(OpenCall("s", GREEDY, CONTEXT))
    verify(e, VerifyCall("s", 0, 0, text))
    assert NO_PAGE not in e._slots.layout.pages(e._slots.get("s").index), "nobody needs the room yet"
    assert plain(e, short, 4) == generate("mistral-window", short, 4)
    assert e._rooms.num_preempted == 0
    assert e._slots.layout.pages(e._slots.get("s").index).count(NO_PAGE) >= 3
    assert (
        verify(e, VerifyCall("s", 1, 130, (5,))).next_token
        == generate("mistral-window", (*text[:130], 5), 1)[0]
    )
    assert e._slots.get("s").is_placed
    e.submit(VerifyCall("s", 2, 20, (7,)))
    assert not e._slots.get("s").is_placed, "its first tokens are computed again"
    (answer,) = run_until_idle(e)
    assert answer.next_token == generate("mistral-window", (*text[:20], 7), 1)[0]
    assert e.cached_len("s") == 21
    e.close("s")
    assert all_free(e)


def test_a_failed_part_of_a_long_prompt_can_be_sent_again(monkeypatch):
    e = windowed(prefix_cache=False)
    (text,) = prompts(140)
    e.open(OpenCall("s", GREEDY, CONTEXT))
    e.submit(VerifyCall("s", 0, 0, text))
    for _ in range(8):
        assert e.step() == []
    monkeypatch.setattr(type(e.forward), "__call__", lambda *_: 1 / 0)
    (failed,) = e.step()
    assert isinstance(failed, CallFailed)
    assert e.cached_len("s") == 0
    monkeypatch.undo()
    assert verify(e, VerifyCall("s", 1, 0, text)).next_token == generate("mistral-window", text, 1)[0]
    e.close("s")
    assert all_free(e)


def test_a_block_that_no_window_has_room_for_is_refused():
    e = windowed()
    e.open(OpenCall("s", GREEDY, CONTEXT))
    with pytest.raises(
        InvalidRequest, match="a block of 257 tokens is too long for a model with a sliding window"
    ):
        e.submit(VerifyCall("s", 0, 0, (1,), (1,) * 257))
    e.close("s")


@pytest.mark.parametrize("seed", range(2))
def test_speculation_beyond_the_window_changes_nothing(seed):
    (prompt,) = prompts(90, seed=seed)
    drafter = engine("mistral-window", 1, cache="paged", cache_bytes=10**9, prefill_chunk=16)
    assert speculative(drafter, windowed(), prompt, 60, StopRule(5))[0] == generate(
        "mistral-window", prompt, 60
    )
