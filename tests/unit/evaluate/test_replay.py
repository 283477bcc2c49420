"""Replaying traces: the same rounds as end to end, and figures that follow from them."""

from dataclasses import replace

import pytest

from adasd.errors import InvalidRequest
from adasd.evaluate.compared_methods import method
from adasd.evaluate.replay import Costs, replay, replay_static
from adasd.evaluate.traces import LookupTrace, Trace

SURE, UNSURE = (0.01, 0.99), (2.0, 0.3)


def trace(accepted: str, signals=None) -> Trace:
    """``+`` for a position whose drafted token is accepted, ``-`` for a rejected one."""
    stands = tuple(letter == "+" for letter in accepted)
    rejected = {at: (UNSURE,) * 16 for at, ok in enumerate(stands) if not ok}
    return Trace(
        "words", 0.0, len(stands), len(stands), stands, tuple(signals or [SURE] * len(stands)), rejected
    )


def rounds(text: str, name: str) -> tuple[int, int, int]:
    (answer,) = replay([trace(text)], method(name), Costs(0.1))
    return answer.num_tokens, answer.num_rounds, answer.num_drafted


def test_a_block_stands_up_to_its_first_rejection_and_the_targets_token_follows():
    assert rounds("++++++++", "static-3") == (
        7,
        2,
        5,
    )  # 3 + 1, then 2 + 1: the bonus needs its position
    assert rounds("++-+++++", "static-3") == (
        7,
        3,
        6,
    )  # 1 and a correction, 3 and a bonus, 0 and the last token
    assert rounds("--------", "off") == (7, 7, 0)


def test_what_is_drafted_after_a_rejection_costs_time():
    (answer,) = replay([trace("+-++")], method("static-2"), Costs(0.25, hop_ms=0.5))
    assert (answer.num_rounds, answer.num_drafted) == (2, 3)
    assert answer.ms == pytest.approx(2 * 1.5 + 3 * 0.25)


def test_a_stop_rule_sees_the_signals_of_the_text_and_of_what_follows_a_rejection():
    signals = [SURE, SURE, SURE, UNSURE, SURE, SURE, SURE, SURE]
    (answer,) = replay([trace("++++++++", signals)], method("confidence"), Costs(0.1))
    assert answer.num_rounds == 2  # the first block ends with the unsure token
    (cut,) = replay([trace("+-++++++")], method("confidence"), Costs(0.1))
    assert cut.num_drafted < 16 + 6  # after the rejection it stops at the first unsure token


def test_past_the_end_of_a_text_the_draft_goes_on_until_the_verdict():
    ended = replace(trace("+++++-" + "-" * 14, [SURE] * 5 + [UNSURE] * 15), num_tokens=4, max_tokens=40)
    (blind,), (careful,) = (replay([ended], method(name), Costs(0.1)) for name in ("static-8", "confidence"))
    assert (blind.num_tokens, blind.num_rounds, blind.num_drafted) == (3, 1, 8)
    assert careful.num_drafted == 5  # it stops at the second token past the end


def test_lossy_methods_are_refused():
    with pytest.raises(InvalidRequest, match="changes the text"):
        replay([trace("+++")], method("adasd+collision"), Costs(0.1))


def test_a_look_up_that_knows_nothing_leaves_a_plain_round():
    nothing, two = (), (SURE, SURE)
    found = LookupTrace(
        "words", 0.0, 6, 6, (nothing, nothing, two, two, nothing, nothing), (0, 0, 1, 2, 0, 0)
    )
    (answer,) = replay([found], method("static-5"), Costs(0.1))
    assert (answer.num_tokens, answer.num_rounds, answer.num_drafted) == (
        5,
        4,
        2,
    )  # plain; 1 and a correction; 2 plain


@pytest.mark.parametrize("length", [0, 1, 3, 16])
def test_static_lengths_by_themselves_are_those_under_the_controller(length):
    texts = [trace("+" * n + "-" * (20 - n)) for n in range(2, 20)]
    costs = Costs(0.1, verify_ms_per_token=0.05, hop_ms=0.02)
    slow = replay(texts, method(f"static-{length}" if length else "off"), costs)
    for fast, answer in zip(replay_static(texts, length, costs), slow, strict=True):
        assert fast == pytest.approx(answer.pace)


def test_a_method_is_told_the_rule_of_each_block():
    """``adasd-goodput`` learns from blocks that their maximum length ended: a draft that is never right gets short."""
    *_, third = replay([trace("-" * 120)] * 3, method("adasd-goodput"), Costs(0.3))
    assert third.num_drafted < 2 * third.num_rounds
