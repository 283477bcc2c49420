"""The behaviour of CountingEngine that benchmarks rely on."""

import pytest

from adasd.errors import InvalidRequest, Overloaded, StaleCache, UnknownSession
from adasd.rounds import DraftCall, OpenCall, SamplingTransform, StopRule, VerifyCall
from load_tests.latency.counting_engine import CountingEngine


def opened(**settings):
    engine = CountingEngine(num_slots=1, vocab_size=10, **settings)
    engine.open(OpenCall("s", SamplingTransform(), 20))
    return engine


def test_what_counts_on_is_accepted_and_the_rest_corrected():
    engine = opened()
    engine.submit(VerifyCall("s", 0, 0, (7, 8), block=(9, 0, 5, 6)))
    (verdict,) = engine.step()
    assert (verdict.num_accepted, verdict.next_token, verdict.exact_ok) == (2, 1, (True, True, False))
    assert engine.cached_len("s") == 4


def test_a_draft_counts_as_long_as_its_rule_lets_it():
    engine = opened()
    engine.submit(DraftCall("s", 0, 0, (8,), StopRule(3)))
    (drafted,) = engine.step()
    assert (drafted.base_len, drafted.tokens) == (1, (9, 0, 1))
    assert engine.cached_len("s") == 3  # the last one was never fed
    engine.check_integrity()


def test_refusals_are_those_of_a_real_engine():
    engine = opened()
    with pytest.raises(Overloaded):
        engine.open(OpenCall("t", SamplingTransform(), 20))
    with pytest.raises(UnknownSession):
        engine.submit(VerifyCall("t", 0, 0, (1,)))
    with pytest.raises(StaleCache):
        engine.submit(VerifyCall("s", 0, 1, (1,)))
    with pytest.raises(InvalidRequest):
        engine.submit(DraftCall("s", 0, 0, (1,), StopRule(20)))
    engine.close("s")
    assert engine.num_free_slots == 1
