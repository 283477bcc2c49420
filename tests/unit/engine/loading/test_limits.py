"""Bad input and limits: only that request is refused, with a clear message, and every slot is freed."""

import pytest

from adasd.config import EngineConfig
from adasd.engine.cache.kv_cache import KVCache
from adasd.engine.engine import TorchEngine
from adasd.engine.loading.limits import resolve_num_slots
from adasd.errors import ConfigError, ContextTooLong, InvalidRequest, Overloaded
from adasd.local import LocalPair
from adasd.results import FinishReason
from adasd.rounds import OpenCall, VerifyCall
from adasd.testing.loops import GREEDY, plain, run_until_idle, verify
from tests.unit.engine.models import engine, generate, prompts

CONTEXT = 64
BYTES_PER_SLOT = 2 * 2 * 2 * 8 * 4 * CONTEXT  # layers, keys and values, heads, head dimension, float32
EXACTLY, ABOVE = prompts(CONTEXT, CONTEXT + 1)


@pytest.fixture
def pair():
    """A target engine, and a draft engine with other weights."""
    found = LocalPair(
        engine("llama", max_context=CONTEXT, num_slots=3),
        engine("llama", seed=1, max_context=CONTEXT, num_slots=3),
        lambda ids: " ".join(map(str, ids)),
        frozenset(),
    )
    yield found
    for one in (found.target, found.draft):
        one.check_integrity()
        assert (one.num_free_slots, one.num_pending) == (3, 0)


@pytest.mark.parametrize("mode", ["off", "exact", "adaptive"])
@pytest.mark.parametrize("room", [0, 1, 2, 7])
def test_prompt_and_answer_may_fill_the_context_and_not_a_token_more(pair, mode, room):
    prompt = EXACTLY[room:]
    answer = pair.generate(prompt, max_tokens=room, mode=mode)
    assert len(answer.tokens) == room
    if mode != "adaptive":
        assert list(answer.token_ids) == (generate("llama", prompt, room) if room else [])
    assert answer.finish_reason is FinishReason.LENGTH
    with pytest.raises(
        ContextTooLong, match=rf"length is {CONTEXT} tokens.*\({CONTEXT - room} in the prompt, {room + 1} "
    ):
        pair.generate(prompt, max_tokens=room + 1, mode=mode)


def test_an_answer_of_no_tokens_takes_no_slot(pair):
    pair.target.open(OpenCall("a", GREEDY, 5))
    pair.target.open(OpenCall("b", GREEDY, 5))
    pair.target.open(OpenCall("c", GREEDY, 5))
    answer = pair.generate((1, 2, 3), max_tokens=0)
    assert (answer.text, answer.usage.completion_tokens, answer.usage.prompt_tokens) == ("", 0, 3)
    for session in "abc":
        pair.target.close(session)


def test_a_prompt_above_the_context_is_refused_by_the_engine_too():
    e = engine("llama", max_context=CONTEXT, num_slots=1)
    with pytest.raises(InvalidRequest, match="1 to 64 tokens, 65 were asked for"):
        e.open(OpenCall("s", GREEDY, CONTEXT + 1))
    e.open(OpenCall("s", GREEDY, CONTEXT))
    with pytest.raises(InvalidRequest, match="needs 65 cached tokens, its slot was opened for 64"):
        e.submit(VerifyCall("s", 0, 0, ABOVE))
    assert verify(e, VerifyCall("s", 0, 0, EXACTLY)).next_token == generate("llama", EXACTLY, 1)[0]
    e.close("s")
    assert e.num_free_slots == 1


def test_sessions_beyond_the_slots_are_refused_and_the_others_go_on():
    e = engine("llama", num_slots=2)
    texts = dict(zip("ab", prompts(9, 30), strict=True))
    for session, text in texts.items():
        e.open(OpenCall(session, GREEDY, 60))
        e.submit(VerifyCall(session, 0, 0, text))
        if session == "a":
            e.step()
    for _ in range(3):
        with pytest.raises(Overloaded, match="all 2 slots"):
            e.open(OpenCall("c", GREEDY, 60))
    e.check_integrity()
    (verdict,) = run_until_idle(e)
    assert verdict.next_token == generate("llama", texts["b"], 1)[0]
    e.close("a")
    e.open(OpenCall("c", GREEDY, 60))
    assert verify(e, VerifyCall("c", 0, 0, texts["a"])).next_token == generate("llama", texts["a"], 1)[0]
    for session in "bc":
        e.close(session)
    assert e.num_free_slots == 2


def test_more_sessions_than_rows_ever_held_come_and_go():
    e = engine("llama", num_slots=2)
    for text in prompts(*range(1, 30)):
        assert plain(e, text, 2) == generate("llama", text, 2)
        e.check_integrity()


def test_a_beginning_that_cannot_be_copied_is_computed(monkeypatch, caplog):
    e = engine("llama", num_slots=2, max_context=CONTEXT, prefill_chunk=16)

    def no_memory(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(KVCache, "copy_prefix", no_memory)
    e.open(OpenCall("first", GREEDY, CONTEXT))
    verify(e, VerifyCall("first", 0, 0, EXACTLY[:40]))
    e.open(OpenCall("second", GREEDY, CONTEXT))
    verdict = verify(e, VerifyCall("second", 0, 0, EXACTLY[:45]))
    assert verdict.next_token == generate("llama", EXACTLY[:45], 1)[0]
    assert verdict.cached_tokens == 0
    assert "out of memory" in caplog.text
    e.close("first")
    e.close("second")


@pytest.mark.parametrize(
    ("budget", "num_slots"),
    [(BYTES_PER_SLOT, 1), (2 * BYTES_PER_SLOT - 1, 1), (5 * BYTES_PER_SLOT, 5), (10**12, 8), (None, 8)],
)
def test_a_budget_in_bytes_says_how_many_slots_there_are(budget, num_slots):
    e = engine("llama", max_context=CONTEXT, cache_bytes=budget)
    assert e.num_slots == e.num_free_slots == e.cache.layout.num_slots == num_slots
    for i in range(num_slots):
        e.open(OpenCall(str(i), GREEDY, CONTEXT))
    with pytest.raises(Overloaded):
        e.open(OpenCall("one more", GREEDY, CONTEXT))
    for i in range(num_slots):
        e.close(str(i))


def test_a_budget_too_small_for_one_session_is_refused_with_both_numbers():
    with pytest.raises(
        ConfigError, match=f"cache_bytes is {BYTES_PER_SLOT - 1},.* takes {BYTES_PER_SLOT} bytes"
    ):
        engine("llama", max_context=CONTEXT, cache_bytes=BYTES_PER_SLOT - 1)


def test_a_budget_is_only_ever_a_limit():
    config = EngineConfig("tiny", num_slots=4, cache_bytes=1000)
    assert [resolve_num_slots(config, size) for size in (1, 250, 251, 1000)] == [4, 4, 3, 1]
    assert isinstance(engine("llama", cache_bytes=10**9), TorchEngine)
