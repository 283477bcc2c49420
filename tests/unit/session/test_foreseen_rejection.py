"""The draft prepares for the rejection of a doubtful token; if that comes, the next block is already there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from adasd.rounds import AcceptanceRule, Assumption, DraftBlock
from adasd.session.events import (
    AskDraft,
    AskVerify,
    DraftAnswered,
    DraftAttached,
    DraftLate,
    DraftLost,
    TargetAttached,
    TargetDeclined,
    TargetLost,
)
from adasd.session.lookahead import Rejection, likeliest_rejection, rejection
from adasd.session.protocol import step
from adasd.session.state import Phase, Session
from tests.unit.session.helpers import begun, block, ids, only, planned, verdict

PLAN = planned(4, ahead=True, early=True)


def doubtful(drafted: DraftBlock, others: str, confidences: tuple[float, ...]) -> DraftBlock:
    return replace(drafted, runner_ups=ids(others), confidences=confidences)


def judging(
    confidences: tuple[float, ...] = (0.9, 0.6, 0.9), others: str = "BCD", *, relaxes: bool = False
) -> tuple[Session, AskVerify, AskDraft]:
    """'a' is committed after 'hello', the target judges 'bcd', the draft prepares for the likeliest outcome."""
    session, actions = step(begun(), DraftAttached())
    session, _ = step(session, DraftAnswered(block(only(actions, AskDraft).call, "")))
    session, actions = step(session, TargetAttached())
    session, _ = step(session, verdict(only(actions, AskVerify).call, 0, "a"))
    plan = replace(PLAN, accept=AcceptanceRule("collision", {"ratio": 0.5})) if relaxes else PLAN
    session, actions = step(session, plan)
    drafted = doubtful(block(only(actions, AskDraft).call, "bcd"), others, confidences)
    session, actions = step(session, DraftAnswered(drafted))
    return session, only(actions, AskVerify), only(actions, AskDraft)


def prepared(*, relaxes: bool = False) -> tuple[Session, AskVerify, AskDraft, tuple]:
    """The guess after 'bcd' and its block have arrived; also returns the actions that followed."""
    session, ask, ahead = judging(relaxes=relaxes)
    session, actions = step(session, DraftAnswered(block(ahead.call, "efg")))
    return session, ask, only(actions, AskDraft), actions


def test_the_likeliest_rejection():
    drafted = DraftBlock("s", 1, 0, ids("bcd"), (1.0,) * 3)
    assert likeliest_rejection(drafted) is None
    at = likeliest_rejection(doubtful(drafted, "BCD", (0.9, 0.6, 0.5)))
    assert at is not None
    assert (at.place, at.token, at.likelihood) == (1, ord("C"), pytest.approx(0.9 * 0.4))
    assert likeliest_rejection(doubtful(drafted, "BcD", (0.9, 0.6, 0.9))) is None  # no other choice there


@pytest.mark.parametrize(("remaining", "expected"), [(50, 4), (6, 3), (4, 1), (3, None)])
def test_no_more_is_drafted_than_the_answer_has_room_for(remaining, expected):
    """One token is accepted, one is the runner-up, the last is the next verdict's own token."""
    drafted = DraftBlock("s", 1, 0, ids("bcd"), (1.0,) * 3)
    found = rejection(drafted, Rejection(1, ord("C"), 0.5), PLAN.draft, remaining)
    assert (found and found[2].max_tokens) == expected


def test_the_second_outcome_is_prepared_behind_the_first():
    _, _, instead, actions = prepared()
    assert (instead.call.keep_len, instead.call.feed) == (7, ids("C"))  # hello, a, b
    assert instead.call.optimistic
    assert only(actions, AskVerify).call.assuming.num_accepted is None  # that is the first outcome


def test_a_likely_rejection_is_prepared_first_and_the_rest_is_read_again():
    session, _, instead = judging((0.9, 0.3, 0.9))
    assert (instead.call.keep_len, instead.call.feed) == (7, ids("C"))
    _, actions = step(session, DraftAnswered(block(instead.call, "xy")))
    ahead = only(actions, AskDraft).call
    assert (ahead.keep_len, ahead.feed) == (7, ids("cd"))  # 'C' took the place of 'c'


def test_who_does_not_say_what_it_would_have_said_instead_prepares_for_acceptance_alone():
    session, _, ahead = judging(others="")
    assert ahead.call.feed == ids("d")
    _, actions = step(session, DraftAnswered(block(ahead.call, "efg")))
    assert [action for action in actions if isinstance(action, AskDraft)] == []


def test_a_rejection_that_was_foreseen_is_judged_without_a_further_word():
    session, ask, instead, _ = prepared()
    session, actions = step(session, DraftAnswered(block(instead.call, "xyz")))
    early = only(actions, AskVerify).call
    assert (early.keep_len, early.feed, early.block) == (7, ids("C"), ids("xyz"))
    assert early.assuming == Assumption(ask.call.epoch, ord("C"), 1)
    session, _ = step(session, verdict(ask.call, 1, "C"))
    session, actions = step(session, PLAN)
    assert (session.phase, session.epoch) == (Phase.VERIFYING, early.epoch)
    call = only(actions, AskDraft).call  # drafting goes on after that
    assert (call.keep_len, call.feed) == (10, ids("z"))  # hello, a, b, C, x, y
    session, _ = step(session, verdict(early, 3, "!"))
    assert session.committed == ids("helloabCxyz!")


def test_where_acceptance_is_learned_it_is_judged_after_the_verdict():
    session, ask, instead, actions = prepared(relaxes=True)
    assert [action for action in actions if isinstance(action, AskVerify)] == []
    session, actions = step(session, DraftAnswered(block(instead.call, "xyz")))
    assert actions == ()
    session, _ = step(session, verdict(ask.call, 1, "C"))
    session, actions = step(session, PLAN)
    assert only(actions, AskVerify).call.block == ids("xyz")


def test_a_rejection_that_was_foreseen_waits_for_its_block():
    session, ask, instead, _ = prepared()
    session, _ = step(session, verdict(ask.call, 1, "C"))
    session, actions = step(session, PLAN)
    assert (session.phase, actions) == (Phase.DRAFTING, ())
    session, actions = step(session, DraftAnswered(block(instead.call, "xyz")))
    call = only(actions, AskVerify).call
    assert (call.keep_len, call.feed, call.block) == (7, ids("C"), ids("xyz"))


@pytest.mark.parametrize(("accepted", "token"), [(1, "?"), (0, "C"), (2, "C"), (3, "?")])
def test_another_outcome_than_both_rolls_the_draft_back(accepted, token):
    session, ask, instead, _ = prepared()
    session, _ = step(session, DraftAnswered(block(instead.call, "xyz")))
    session, _ = step(session, verdict(ask.call, accepted, token))
    session, actions = step(session, PLAN)
    call = only(actions, AskDraft).call
    assert call.keep_len == 6 + min(accepted, 1)  # from the doubtful token on its cache holds other tokens
    assert ids("hello") + ids("abcd")[: call.keep_len - 5] + call.feed == session.committed
    assert not call.optimistic


def test_acceptance_after_all_goes_on_with_the_first_block():
    session, ask, instead, actions = prepared()
    early = only(actions, AskVerify).call
    session, _ = step(session, DraftAnswered(block(instead.call, "xyz")))
    session, _ = step(session, verdict(ask.call, 3, "e"))
    session, actions = step(session, PLAN)
    assert session.epoch == early.epoch
    call = only(actions, AskDraft).call
    assert (call.keep_len, call.feed) == (
        7,
        ids("cdefg"),
    )  # the draft feeds again what 'C' had replaced


def test_a_refusal_is_asked_again():
    session, ask, instead, _ = prepared()
    session, actions = step(session, DraftAnswered(block(instead.call, "xyz")))
    early = only(actions, AskVerify).call
    session, _ = step(session, verdict(ask.call, 1, "C"))
    session, _ = step(session, TargetDeclined(early.epoch))
    session, actions = step(session, PLAN)
    again = only(actions, AskVerify).call
    assert (again.block, again.assuming) == (ids("xyz"), None)


@pytest.mark.parametrize(("ends", "kept"), [(DraftLost(), [None]), (TargetLost(), [])])
def test_a_lost_draft_costs_the_outcome_that_it_worked_on_and_a_lost_target_both(ends, kept):
    session, _, instead, _ = prepared()
    session, _ = step(session, ends)
    assert [branch.num_accepted for branch in session.branches] == kept
    late, actions = step(session, DraftAnswered(block(instead.call, "xyz")))
    assert (late, actions) == (session, ())


def test_lateness_costs_the_second_outcome_alone():
    session, ask, instead, _ = prepared()
    session, actions = step(session, DraftLate(instead.call.epoch))
    assert [branch.num_accepted for branch in session.branches] == [None]
    assert (session.draft.ready, actions) == (True, ())
    session, _ = step(session, verdict(ask.call, 1, "C"))
    session, actions = step(session, PLAN)
    assert only(actions, AskDraft).call.feed == ids("C")
