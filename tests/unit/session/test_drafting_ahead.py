"""Drafting ahead: a right guess gives the next block for free, a wrong one costs only the guess."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from adasd.rounds import AcceptanceRule, Assumption, DraftBlock, DraftDistributions, StopRule
from adasd.session.events import (
    AskDraft,
    AskVerify,
    DraftAnswered,
    DraftAttached,
    DraftLate,
    DraftLeft,
    DraftLost,
    Learn,
    Planned,
    TargetAttached,
    TargetDeclined,
    TargetLost,
)
from adasd.session.lookahead import full_acceptance, with_block
from adasd.session.protocol import step
from adasd.session.state import Branch, Phase, Session
from tests.unit.session.helpers import begun, block, ids, only, planned, verdict


def judging(drafted: str = "bc") -> tuple[Session, AskVerify, AskDraft]:
    """'a' is committed, the target judges ``drafted``, the draft goes on after it."""
    session, actions = step(begun(), DraftAttached())
    session, _ = step(session, DraftAnswered(block(only(actions, AskDraft).call, "")))
    session, actions = step(session, TargetAttached())
    session, _ = step(session, verdict(only(actions, AskVerify).call, 0, "a"))
    session, actions = step(session, planned(4, ahead=True, early=True))
    session, actions = step(session, DraftAnswered(block(only(actions, AskDraft).call, drafted)))
    return session, only(actions, AskVerify), only(actions, AskDraft)


def test_the_draft_goes_on_behind_the_block():
    _, ask, ahead = judging("bc")
    assert (ask.call.feed, ask.call.block) == (ids("a"), ids("bc"))
    assert (ahead.call.keep_len, ahead.call.feed) == (7, ids("c"))  # hello, a, b are cached
    assert ahead.call.rule.max_tokens == 5  # the guess and a block
    assert ahead.call.optimistic


@pytest.mark.parametrize("gone", [DraftLost(), DraftLeft()])
@pytest.mark.parametrize("verdict_first", [True, False])
def test_a_block_that_has_arrived_is_judged_though_its_draft_is_gone(verdict_first, gone):
    session, ask, ahead = judging("bc")
    session, actions = step(session, DraftAnswered(block(ahead.call, "def")))
    early = only(actions, AskVerify).call
    says = verdict(ask.call, 2, "d")
    for event in (says, gone) if verdict_first else (gone, says):
        session, _ = step(session, event)
    session, actions = step(session, planned(4, ahead=True, early=True))
    assert (session.phase, session.epoch, actions) == (Phase.VERIFYING, early.epoch, ())
    session, _ = step(session, verdict(early, 2, "g"))
    assert session.committed == ids("helloabcdefg")
    assert not session.draft.attached


@pytest.mark.parametrize("verdict_first", [True, False])
def test_a_right_guess_is_the_next_block(verdict_first):
    session, ask, ahead = judging("bc")
    says, drafts = verdict(ask.call, 2, "d"), DraftAnswered(block(ahead.call, "def"))
    if verdict_first:
        session, _ = step(session, says)
        session, actions = step(session, planned(4, ahead=True, early=True))
        assert (session.phase, actions) == (Phase.DRAFTING, ())
        session, actions = step(session, drafts)
        early = only(actions, AskVerify).call
    else:
        session, actions = step(session, drafts)
        early = only(actions, AskVerify).call
        assert early.assuming == Assumption(ask.call.epoch, ord("d"))
        session, _ = step(session, says)
        session, actions = step(session, planned(4, ahead=True, early=True))
        assert (session.phase, session.epoch) == (Phase.VERIFYING, early.epoch)
        assert not [action for action in actions if isinstance(action, AskVerify)]
    assert (early.keep_len, early.feed, early.block) == (8, ids("d"), ids("ef"))
    assert (only(actions, AskDraft).call.keep_len, only(actions, AskDraft).call.feed) == (10, ids("f"))
    assert (session.counts.num_ahead, session.counts.num_ahead_used) == (2, 1)


@pytest.mark.parametrize(("drops_last", "judged"), [(False, "ef"), (True, "e")])
def test_a_block_drafted_ahead_has_the_rule_it_was_drafted_by(drops_last, judged):
    session, actions = step(begun(), DraftAttached())
    session, _ = step(session, DraftAnswered(block(only(actions, AskDraft).call, "")))
    session, actions = step(session, TargetAttached())
    session, _ = step(session, verdict(only(actions, AskVerify).call, 0, "a"))
    rule = StopRule(4, entropy_ceiling=1.0, drops_last=drops_last)
    session, actions = step(session, Planned(rule, AcceptanceRule(), drafts_ahead=True, asks_early=True))
    session, actions = step(session, DraftAnswered(block(only(actions, AskDraft).call, "bc")))
    says, ahead = verdict(only(actions, AskVerify).call, 2, "d"), only(actions, AskDraft)
    drafted = replace(block(ahead.call, "def"), entropies=(0.5, 0.5, 1.2))
    session, actions = step(session, DraftAnswered(drafted))
    early = only(actions, AskVerify).call
    assert early.block == ids(judged)
    session, _ = step(session, says)
    session, _ = step(session, planned(1, ahead=True, early=True))  # the rule has changed
    _, actions = step(session, verdict(early, len(judged), "x"))
    assert only(actions, Learn).round.rule == rule


@pytest.mark.parametrize("verdict_first", [True, False])
def test_a_wrong_guess_is_forgotten_and_the_block_stays_cached(verdict_first):
    session, ask, ahead = judging("bc")
    says, drafts = verdict(ask.call, 2, "x"), DraftAnswered(block(ahead.call, "def"))
    if verdict_first:
        session, _ = step(session, says)
        session, _ = step(session, planned(4, ahead=True, early=True))
        session, actions = step(session, drafts)
    else:
        session, _ = step(session, drafts)
        session, _ = step(session, says)
        session, actions = step(session, planned(4, ahead=True, early=True))
    assert (only(actions, AskDraft).call.keep_len, only(actions, AskDraft).call.feed) == (8, ids("x"))
    assert session.counts.num_ahead_used == 0


def test_a_rejection_overtakes_what_is_on_its_way():
    session, ask, ahead = judging("bc")
    session, _ = step(session, verdict(ask.call, 1, "x"))
    session, actions = step(session, planned(4, ahead=True, early=True))
    call = only(actions, AskDraft).call
    assert (call.keep_len, call.feed) == (7, ids("x"))
    assert step(session, DraftAnswered(block(ahead.call, "def"))) == (session, ())  # too late


def early() -> tuple[Session, AskVerify, AskVerify]:
    """The target judges 'bc', and got 'ef' early, on the assumption that 'bc' is accepted and 'd' follows."""
    session, ask, ahead = judging("bc")
    session, actions = step(session, DraftAnswered(block(ahead.call, "def")))
    return session, ask, only(actions, AskVerify)


def test_what_was_asked_early_and_did_not_come_true_is_forgotten():
    session, ask, asked = early()
    session, _ = step(session, verdict(ask.call, 1, "x"))
    session, _ = step(session, planned(4, ahead=True, early=True))
    assert session.epoch > asked.call.epoch
    after = session
    assert step(session, TargetDeclined(asked.call.epoch)) == (after, ())
    assert step(session, verdict(asked.call, 2, "g")) == (after, ())


def test_a_refusal_that_comes_before_the_verdict_makes_the_round_ask_again():
    session, ask, asked = early()
    session, actions = step(session, TargetDeclined(asked.call.epoch))
    assert actions == ()
    session, _ = step(session, verdict(ask.call, 2, "d"))
    session, actions = step(session, planned(4, ahead=True, early=True))
    again = only(actions, AskVerify).call
    assert (again.keep_len, again.feed, again.block, again.assuming) == (8, ids("d"), ids("ef"), None)


def test_a_refusal_of_what_the_round_counts_on_is_asked_again_and_the_draft_goes_on():
    session, ask, asked = early()
    session, _ = step(session, verdict(ask.call, 2, "d"))
    session, actions = step(session, planned(4, ahead=True, early=True))
    behind = only(actions, AskDraft).call
    session, actions = step(session, TargetDeclined(asked.call.epoch))
    again = only(actions, AskVerify).call
    assert (again.keep_len, again.feed, again.block, again.assuming) == (8, ids("d"), ids("ef"), None)
    assert again.epoch > asked.call.epoch
    session, actions = step(session, DraftAnswered(block(behind, "gh")))
    assert only(actions, AskVerify).call.assuming == Assumption(again.epoch, ord("g"))


def test_what_was_asked_early_behind_a_refused_ask_is_asked_again_too():
    session, ask, asked = early()
    session, _ = step(session, verdict(ask.call, 2, "d"))
    session, actions = step(session, planned(4, ahead=True, early=True))
    session, actions = step(session, DraftAnswered(block(only(actions, AskDraft).call, "gh")))
    behind = only(actions, AskVerify).call
    session, actions = step(session, TargetDeclined(asked.call.epoch))
    again = only(actions, AskVerify).call
    session, _ = step(session, verdict(behind, 1, "i"))  # of a copy with an old epoch
    session, _ = step(session, verdict(again, 2, "g"))
    session, actions = step(session, planned(4, ahead=True, early=True))
    assert (only(actions, AskVerify).call.feed, only(actions, AskVerify).call.block) == (ids("g"), ids("h"))


def test_a_rule_that_the_verdict_may_change_is_not_asked_for_early():
    session, _, ahead = judging("bc")
    session = session._replace(
        plan=replace(session.plan, accept=AcceptanceRule("collision", {"ratio": 0.5}, 1))
    )
    _, actions = step(session, DraftAnswered(block(ahead.call, "def")))
    assert actions == ()


def test_a_late_block_ahead_is_not_waited_for():
    session, ask, ahead = judging("bc")
    session, _ = step(session, DraftLate(ahead.call.epoch))
    session, _ = step(session, verdict(ask.call, 2, "d"))
    session, actions = step(session, planned(4, ahead=True, early=True))
    assert only(actions, AskDraft).call.feed == ids("cd")


def test_lateness_while_the_round_waits_makes_it_plain():
    session, ask, ahead = judging("bc")
    session, _ = step(session, verdict(ask.call, 2, "d"))
    session, _ = step(session, planned(4, ahead=True, early=True))
    session, actions = step(session, DraftLate(ahead.call.epoch))
    plain, behind = (action.call for action in actions)  # the target decodes on while the draft is busy
    assert (plain.block, plain.assuming) == ((), None)
    assert (behind.block, behind.assuming) == ((), Assumption(plain.epoch, None))
    session, _ = step(session, DraftAnswered(block(ahead.call, "def")))
    assert session.draft.ready
    assert session.draft.keep_len == 10  # hello, a, b, c, d, e: committed now or later


def test_what_was_drafted_ahead_is_judged_even_if_the_plan_is_plain():
    session, ask, ahead = judging("bc")
    session = session._replace(plan=replace(session.plan, accept=AcceptanceRule("collision", {"ratio": 0.5})))
    session, _ = step(session, DraftAnswered(block(ahead.call, "def")))
    session, _ = step(session, verdict(ask.call, 2, "d"))
    session, actions = step(session, planned(0))
    assert only(actions, AskVerify).call.block == ids("ef")
    assert session.branches == ()


def test_so_it_is_if_its_block_comes_later_unless_its_guess_was_wrong():
    for token, judged in (("d", "ef"), ("x", "")):
        session, ask, ahead = judging("bc")
        session, _ = step(session, verdict(ask.call, 2, token))
        session, actions = step(session, planned(0))
        assert actions == ()
        session, actions = step(session, DraftAnswered(block(ahead.call, "def")))
        assert only(actions, AskVerify).call.block == ids(judged)


def test_a_plain_plan_takes_what_the_target_is_at_and_drafts_no_further():
    session, ask, asked = early()
    session, _ = step(session, verdict(ask.call, 2, "d"))
    session, actions = step(session, planned(0))
    assert (session.epoch, actions) == (asked.call.epoch, ())
    session, _ = step(session, verdict(asked.call, 2, "g"))
    session, actions = step(session, planned(0))
    assert only(actions, AskVerify).call.block == ()
    assert session.committed == ids("helloabcdefg")


def test_a_lost_target_drops_what_was_drafted_ahead():
    session, _, ahead = judging("bc")
    session, _ = step(session, TargetLost())
    assert step(session, DraftAnswered(block(ahead.call, "def"))) == (session, ())
    session, actions = step(session, TargetAttached())
    session, _ = step(session, verdict(only(actions, AskVerify).call, 0, "b"))
    _, actions = step(session, planned(4))
    assert (only(actions, AskDraft).call.keep_len, only(actions, AskDraft).call.feed) == (6, ids("b"))


@pytest.mark.parametrize(("remaining", "expected"), [(20, 5), (7, 3), (5, None)])
def test_the_rule_leaves_room_for_the_verdicts_own_tokens(remaining, expected):
    """Seven: three are judged, one bonus, then a block of two, and that block's bonus."""
    drafted = DraftBlock("s", 1, 10, (7, 8, 9), (0.1, 0.2, 0.3))
    found = full_acceptance(drafted, StopRule(4), remaining)
    assert (found and found[2].max_tokens) == expected


def test_the_block_behind_the_guess_keeps_its_distributions():
    rows = DraftDistributions(np.arange(6, dtype=np.int32).reshape(3, 2), np.zeros((3, 2), np.float32))
    drafted = DraftBlock("s", 1, 10, (7, 8, 9), (0.1, 0.2, 0.3), rows, runner_ups=(4, 5, 6))
    ahead = Branch(10, rule=StopRule(2), draft_epoch=1)
    assert ahead.on_its_way
    assert ahead.matches(10, 7)
    found = with_block(ahead, drafted, 1.0)
    rest = found.block
    assert (rest.base_len, rest.tokens, rest.entropies, rest.runner_ups) == (11, (8, 9), (0.2, 0.3), (5, 6))
    assert rest.distributions.ids.tolist() == [[2, 3], [4, 5]]
    assert found.matches(10, 7)
    assert not found.matches(10, 8)
    assert not found.matches(11, 7)
    only_guess = with_block(ahead, DraftBlock("s", 1, 10, (7,), (0.1,)), 1.0)
    assert (only_guess.block, only_guess.matches(10, 7)) == (None, True)
    assert not with_block(ahead, DraftBlock("s", 1, 10, (), ()), 1.0).matches(10, 7)
