"""In plain rounds the target decodes on while its verdict travels: no token is lost, repeated or waited for."""

from __future__ import annotations

import pytest

from adasd.results import FinishReason
from adasd.rounds import Assumption
from adasd.session.events import (
    AskDraft,
    AskVerify,
    AttachTarget,
    DraftAnswered,
    DraftAttached,
    Finish,
    TargetAttached,
    TargetDeclined,
    TargetLost,
)
from adasd.session.protocol import MAX_CATCH_UP_TOKENS, step
from adasd.session.state import Phase, Session
from tests.unit.session.helpers import EOS, begun, block, ids, only, planned, verdict

ON = planned(0, early=True)


def asks(actions: tuple) -> list:
    return [action.call for action in actions if isinstance(action, AskVerify)]


def decoding(**sampling: object) -> tuple[Session, list]:
    """'a' is committed after the prompt; the target has calls for the next token and for the one after it."""
    session, actions = step(begun(**sampling), TargetAttached())
    session, _ = step(session, verdict(only(actions, AskVerify).call, 0, "a"))
    session, actions = step(session, ON)
    return session, asks(actions)


def says(call, text: str):
    """The verdict of a call, with the last letter of ``text`` as the target's token."""
    answered = verdict(call, 0, text[-1])
    return (
        answered
        if call.feed
        else verdict(type(call)(call.session, call.epoch, call.keep_len, (0,)), 0, text[-1])
    )


def test_two_tokens_are_asked_for_at_once():
    _, (first, second) = decoding()
    assert (first.keep_len, first.feed, first.assuming) == (5, ids("a"), None)
    assert (second.keep_len, second.feed, second.assuming) == (6, (), Assumption(first.epoch, None))


def test_each_verdict_asks_for_one_token_more():
    session, (first, second) = decoding()
    session, _ = step(session, says(first, "b"))
    session, actions = step(session, ON)
    (third,) = asks(actions)
    assert (session.phase, session.epoch) == (Phase.VERIFYING, second.epoch)
    assert (third.keep_len, third.assuming) == (7, Assumption(second.epoch, None))
    session, _ = step(session, says(second, "c"))
    assert session.committed == ids("helloabc")


def test_nothing_is_asked_for_behind_the_last_token():
    session, (first, second) = decoding(max_tokens=3)
    session, _ = step(session, says(first, "b"))
    session, actions = step(session, ON)
    assert actions == ()
    session, actions = step(session, says(second, "c"))
    assert only(actions, Finish).reason is FinishReason.LENGTH


def test_what_comes_behind_the_answers_end_is_dropped():
    session, (first, second) = decoding()
    session, actions = step(session, says(first, chr(EOS)))
    assert only(actions, Finish).reason is FinishReason.STOP
    assert step(session, says(second, "x")) == (session, ())


def test_drafting_waits_for_the_token_that_the_target_is_at():
    session, (first, second) = decoding()
    session, actions = step(session, DraftAttached())
    session, _ = step(session, DraftAnswered(block(only(actions, AskDraft).call, "")))
    session, _ = step(session, says(first, "b"))
    session, actions = step(session, planned(4, early=True))
    assert (session.phase, session.epoch, actions) == (Phase.VERIFYING, second.epoch, ())
    session, _ = step(session, says(second, "c"))
    session, actions = step(session, planned(4, early=True))
    assert only(actions, AskDraft).call.feed == ids("bc")  # it has read the rest


def test_a_draft_that_lags_behind_is_fed_once_during_a_plain_round_and_then_drafts():
    session, (first, second) = decoding()
    session, actions = step(session, DraftAttached())
    session, _ = step(session, DraftAnswered(block(only(actions, AskDraft).call, "")))
    session, _ = step(session, says(first, "b"))
    session, actions = step(session, planned(4, early=True))
    session, _ = step(session, says(second, "c"))
    session, actions = step(session, planned(4, early=True))  # its first block
    session, actions = step(session, DraftAnswered(block(only(actions, AskDraft).call, "defg")))
    session, _ = step(session, verdict(only(actions, AskVerify).call, 0, "x"))
    for letter in "y" * (MAX_CATCH_UP_TOKENS + 1):  # plain rounds, which the draft does not see
        session, (asked,) = step(session, planned(0))
        session, _ = step(session, verdict(asked.call, 0, letter))

    session, (feeds, asked) = step(session, planned(4))
    assert (feeds.call.rule.max_tokens, len(feeds.call.feed)) == (0, MAX_CATCH_UP_TOKENS + 2)
    assert (asked.call.block, session.phase) == ((), Phase.VERIFYING)
    session, _ = step(session, verdict(asked.call, 0, "z"))
    session, (asked,) = step(session, planned(4))
    assert asked.call.block == ()  # it is still being fed
    for letter in "z" * (MAX_CATCH_UP_TOKENS + 1):
        session, _ = step(session, verdict(asked.call, 0, letter))
        session, (asked,) = step(session, planned(0))
    slow, _ = step(session, DraftAnswered(block(feeds.call, "")))
    slow, _ = step(slow, verdict(asked.call, 0, "z"))
    slow, actions = step(slow, planned(4))
    assert (
        only(actions, AskDraft).call.rule.max_tokens == 4
    )  # far behind, as it would be if it were fed again
    assert len(only(actions, AskDraft).call.feed) > MAX_CATCH_UP_TOKENS


def test_a_draft_that_was_read_to_and_then_left_out_is_fed_again_before_it_drafts():
    session, (first, second) = decoding()
    session, actions = step(session, DraftAttached())
    session, _ = step(session, DraftAnswered(block(only(actions, AskDraft).call, "")))
    session, _ = step(session, says(first, "b"))
    session, _ = step(session, planned(0))
    session, _ = step(session, says(second, "c"))
    for letter in "y" * (MAX_CATCH_UP_TOKENS + 1):
        session, (plain,) = step(session, planned(0))
        session, _ = step(session, verdict(plain.call, 0, letter))
    session, (feeds, _) = step(session, planned(4))
    assert feeds.call.rule.max_tokens == 0
    assert len(feeds.call.feed) > MAX_CATCH_UP_TOKENS


def test_without_a_draft_the_target_decodes_on_whatever_is_planned():
    session, actions = step(begun(), TargetAttached())
    session, _ = step(session, verdict(only(actions, AskVerify).call, 0, "a"))
    _, actions = step(session, planned(4, early=True))
    assert len(asks(actions)) == 2


@pytest.mark.parametrize("before_its_turn", [True, False])
def test_a_refusal_is_asked_again_in_its_turn(before_its_turn):
    session, (first, second) = decoding()
    if before_its_turn:
        session, actions = step(session, TargetDeclined(second.epoch))
        assert actions == ()
    session, _ = step(session, says(first, "b"))
    session, actions = step(session, ON)
    if not before_its_turn:
        session, actions = step(session, TargetDeclined(second.epoch))
    again = asks(actions)[0]
    assert (again.keep_len, again.feed, again.assuming) == (6, ids("b"), None)
    session, _ = step(session, says(again, "c"))
    assert session.committed == ids("helloabc")


def test_another_target_begins_anew():
    session, (_, second) = decoding()
    session, actions = step(session, TargetLost())
    only(actions, AttachTarget)
    session, actions = step(session, TargetAttached())
    again = only(actions, AskVerify).call
    assert (again.keep_len, again.feed, again.assuming) == (0, ids("helloa"), None)
    session, actions = step(session, says(second, "x"))
    assert (session.committed, actions) == (ids("helloa"), ())
