"""The fakes that ship with the library: the real engine's contract, and the faults they can simulate."""

import pytest

from adasd.errors import DeviceFailure, InvalidRequest
from adasd.requests import Grammar, GrammarKind
from adasd.rounds import CallFailed, OpenCall, SamplingTransform, StopRule, VerifyCall
from adasd.testing import fake_engine
from adasd.testing.clock import FakeClock
from adasd.testing.contracts import CLAIMS, check_engine
from adasd.testing.fake_engine import FakeEngine
from adasd.testing.letters import letter_grammars, letters
from adasd.testing.loops import GREEDY, plain, speculative, verify
from adasd.testing.table_model import TableModel

MODEL = TableModel.random(vocab_size=12, seed=3)


def make_engine() -> FakeEngine:
    return FakeEngine(MODEL, grammars=letter_grammars(MODEL.vocab_size))


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.__name__)
def test_keeps_the_contract(claim):
    engine = make_engine()
    claim(engine)
    engine.check_integrity()
    assert engine.num_free_slots == engine.num_slots


def test_the_kit_notices_a_slot_that_is_not_given_back():
    class Leaky(FakeEngine):
        def close(self, session: str) -> None:
            if session != "again":
                super().close(session)

    with pytest.raises(AssertionError, match="left a slot taken"):
        check_engine(lambda: Leaky(MODEL))


def test_the_kit_notices_a_cache_that_is_not_rolled_back():
    class Forgetful(FakeEngine):
        def _run(self, work, piece):
            super()._run(work, piece)
            if isinstance(work.call, VerifyCall) and work.slot.cached_len > 7:
                work.slot.tokens[6] = 0  # corrupts a rejected token's position

    with pytest.raises(AssertionError):
        check_engine(lambda: Forgetful(MODEL))


@pytest.mark.parametrize(
    ("spoilt", "claim"),
    [("_score", "a_prompt_is_scored"), ("masked", "penalties_see_the_text")],
)
def test_the_kit_notices_options_that_do_nothing(spoilt, claim, monkeypatch):
    (broken,) = [one for one in CLAIMS if one.__name__.startswith(claim)]
    broken(make_engine())
    if spoilt == "masked":
        monkeypatch.setattr(fake_engine, "masked", lambda logits, *_: list(logits))
    else:
        monkeypatch.setattr(FakeEngine, "_score", lambda *_: ())
    with pytest.raises(AssertionError):
        broken(make_engine())


def test_an_engine_without_a_tokenizer_refuses_grammars():
    with pytest.raises(InvalidRequest, match="no tokenizer"):
        FakeEngine(MODEL).open(OpenCall("s", SamplingTransform(grammar=Grammar(GrammarKind.REGEX, "a")), 9))


@pytest.mark.parametrize("num_ids", [1, 258])
def test_there_are_so_many_letters(num_ids):
    with pytest.raises(ValueError, match="2 to 257"):
        letters(num_ids)


def test_plain_decoding_follows_the_table():
    assert plain(make_engine(), (1, 2, 3), 10) == MODEL.greedy((1, 2, 3), 10)


@pytest.mark.parametrize("noise", [0.0, 1.0, 30.0])
def test_speculation_changes_nothing_whatever_the_draft(noise):
    draft_engine = FakeEngine(MODEL.disturbed(noise))
    tokens, accepted = speculative(draft_engine, make_engine(), (4, 1), 30, StopRule(4))
    assert tokens == MODEL.greedy((4, 1), 30)
    assert (set(accepted) == {4}) == (noise == 0.0)


def test_a_planned_failure_answers_one_call_and_keeps_the_cache():
    engine = make_engine()
    engine.open(OpenCall("s", GREEDY, 20))
    verify(engine, VerifyCall("s", 0, 0, (1, 2)))
    engine.submit(VerifyCall("s", 1, 2, (3,)))
    engine.fail_next("s", DeviceFailure("planned"))
    (failed,) = engine.step()
    assert isinstance(failed, CallFailed)
    assert (failed.epoch, engine.cached_len("s")) == (1, 2)
    assert verify(engine, VerifyCall("s", 2, 2, (3,))).next_token == MODEL.greedy((1, 2, 3), 1)[0]
    engine.close("s")
    engine.check_integrity()


def test_compute_and_waiting_times_come_from_the_clock():
    clock = FakeClock()
    engine = FakeEngine(MODEL, clock=clock, on_step=lambda: clock.advance(0.25))
    engine.open(OpenCall("s", GREEDY, 20))
    engine.submit(VerifyCall("s", 0, 0, (1, 2)))
    clock.advance(1.0)
    (verdict,) = engine.step()
    assert (verdict.compute_ms, verdict.queue_ms) == (250.0, 1000.0)
    engine.close("s")
