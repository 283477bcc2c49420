"""Every legal transition of the session; illegal ones are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest

from adasd.errors import DeadlineExceeded, IllegalEvent
from adasd.results import FinishReason, TokenKind
from adasd.rounds import AcceptanceRule, RoundCompleted, StopRule
from adasd.session.events import (
    AskDraft,
    AskPlan,
    AskVerify,
    AttachTarget,
    Cancel,
    DraftAnswered,
    DraftAttached,
    DraftLate,
    DraftLeft,
    DraftLost,
    Emit,
    Event,
    Fail,
    Finish,
    Learn,
    Planned,
    TargetAnswered,
    TargetAttached,
    TargetLost,
)
from adasd.session.protocol import TRANSITIONS, ignore, refuse, step
from adasd.session.state import Phase, Session
from tests.unit.session.helpers import EOS, begun, block, ids, only, planned, play, start, verdict


def prefilled(*, with_draft: bool = True, **sampling: object) -> Session:
    """A session that has its first token, 'a', and waits for a plan."""
    session = begun(**sampling)
    if with_draft:
        session, actions = step(session, DraftAttached())
        session, _ = step(session, DraftAnswered(block(only(actions, AskDraft).call, "")))
    session, actions = step(session, TargetAttached())
    session, _ = step(session, verdict(only(actions, AskVerify).call, 0, "a"))
    return session


def in_round(drafted: str, session: Session | None = None) -> tuple[Session, AskVerify]:
    """A session with the block ``drafted`` under verification."""
    session, actions = step(session or prefilled(), planned(8))
    session, actions = step(session, DraftAnswered(block(only(actions, AskDraft).call, drafted), 1.0))
    return session, only(actions, AskVerify)


def test_an_answer_begins_with_a_prefill_of_the_whole_prompt():
    session, actions = start("hello")
    assert actions == (AttachTarget(),)
    session, actions = step(session, TargetAttached())
    call = only(actions, AskVerify).call
    assert (call.keep_len, call.feed, call.block) == (0, ids("hello"), ())
    session, actions = step(session, verdict(call, 0, "a"))
    assert session.phase is Phase.PLANNING
    assert only(actions, Emit).chunk.text == "a"
    assert only(actions, Emit).chunk.tokens[0].kind is TokenKind.TARGET
    assert only(actions, AskPlan) == AskPlan(remaining_tokens=49, num_emitted=1, num_relaxed=0)


def test_an_answer_of_no_tokens_takes_no_slot():
    session, actions = start(max_tokens=0)
    assert actions == (Finish(FinishReason.LENGTH),)
    assert session.phase is Phase.FINISHED


def test_a_fresh_draft_reads_the_prompt_while_the_target_does():
    session, actions = step(begun(), DraftAttached())
    call = only(actions, AskDraft).call
    assert (call.keep_len, call.feed, call.rule.max_tokens) == (0, ids("hello"), 0)
    session, _ = step(session, DraftAnswered(block(call, "")))
    assert session.draft.ready
    assert session.draft.keep_len == 5


def test_a_rejection_rolls_both_sides_back_to_what_stands():
    session, ask = in_round("bcd")
    assert (ask.call.keep_len, ask.call.feed, ask.call.block) == (5, ids("a"), ids("bcd"))
    session, actions = step(session, verdict(ask.call, 1, "X"))
    chunk = only(actions, Emit).chunk
    assert chunk.text == "bX"
    assert [token.kind for token in chunk.tokens] == [TokenKind.EXACT, TokenKind.CORRECTION]
    assert session.target_cached == 7
    _, behind = step(session, planned(4))
    call = only(behind, AskDraft).call
    assert (call.keep_len, call.feed) == (7, ids("X"))
    _, actions = step(session, planned(4))
    assert (only(actions, AskDraft).call.keep_len, only(actions, AskDraft).call.feed) == (7, ids("X"))


def test_after_a_full_acceptance_the_draft_is_fed_two_tokens():
    session, ask = in_round("bc")
    session, actions = step(session, verdict(ask.call, 2, "d"))
    assert [token.kind for token in only(actions, Emit).chunk.tokens][-1] is TokenKind.BONUS
    _, actions = step(session, planned(4))
    call = only(actions, AskDraft).call
    assert (call.keep_len, call.feed) == (7, ids("cd"))
    assert call.keep_len + len(call.feed) == len(session.committed)


def test_relaxed_tokens_are_marked_and_counted():
    session, ask = in_round("bc")
    session, actions = step(session, verdict(ask.call, 2, "d", relaxed=(False, True)))
    kinds = [token.kind for token in only(actions, Emit).chunk.tokens]
    assert kinds == [TokenKind.EXACT, TokenKind.RELAXED, TokenKind.BONUS]
    assert only(actions, AskPlan).num_relaxed == 1


def test_a_plan_of_nothing_decodes_plainly_and_the_draft_catches_up_later():
    session, actions = step(prefilled(), planned(0))
    session, _ = step(session, verdict(only(actions, AskVerify).call, 0, "b"))
    _, actions = step(session, planned(3))
    assert only(actions, AskDraft).call.feed == ids("ab")


@pytest.mark.parametrize("event", [DraftLost(), "late"])
def test_a_missing_block_makes_the_round_plain(event):
    session, actions = step(prefilled(), planned(8))
    call = only(actions, AskDraft).call
    session, actions = step(session, DraftLate(call.epoch) if event == "late" else event)
    ask = only(actions, AskVerify)
    assert ask.call.block == ()
    assert session.counts.draft_lost == 1
    session, actions = step(session, DraftAnswered(block(call, "bcd")))  # arrives late
    assert actions == ()
    session, actions = step(session, verdict(ask.call, 0, "b"))
    assert only(actions, Emit).chunk.text == "b"
    assert session.draft.ready == (event == "late")


def test_a_draft_exchanged_for_another_is_no_loss():
    session, _ = in_round("bc")
    session, actions = step(session, DraftLeft())
    assert actions == ()
    session, actions = step(session, DraftAttached())
    assert only(actions, AskDraft).call.feed == ids("helloa")
    assert session.counts.draft_lost == 0


def test_a_late_draft_is_not_asked_again_before_it_has_answered():
    session, actions = step(prefilled(), planned(8))
    late = only(actions, AskDraft).call
    session, actions = step(session, DraftLate(late.epoch))
    session, _ = step(session, verdict(only(actions, AskVerify).call, 0, "b"))
    session, actions = step(session, planned(8))
    ask = only(actions, AskVerify)
    session, _ = step(session, DraftAnswered(block(late, "bcd")))
    session, _ = step(session, verdict(ask.call, 0, "c"))
    _, actions = step(session, planned(8))
    call = only(actions, AskDraft).call
    assert (call.keep_len, call.feed) == (
        7,
        ids("c"),
    )  # 'a' was fed with the late call, and it drafted 'b' itself


def test_lateness_of_an_old_epoch_changes_nothing():
    session, _ = in_round("bc")
    assert step(session, DraftLate(session.epoch - 1)) == (session, ())


def test_a_lost_target_is_replaced_and_prefilled_with_what_was_committed():
    session, ask = in_round("bcd")
    session, actions = step(session, TargetLost())
    assert actions == (AttachTarget(),)
    session, actions = step(session, verdict(ask.call, 3, "e"))  # a late reply of the lost slot
    assert actions == ()
    session, actions = step(session, TargetAttached())
    call = only(actions, AskVerify).call
    assert (call.keep_len, call.feed, call.block) == (0, ids("helloa"), ())
    session, actions = step(session, verdict(call, 0, "b"))
    assert only(actions, Emit).chunk.text == "b"
    assert session.counts.target_lost == 1


def test_a_target_lost_while_drafting_drops_the_block():
    session, actions = step(prefilled(), planned(8))
    call = only(actions, AskDraft).call
    session, _ = step(session, TargetLost())
    session, actions = step(session, DraftAnswered(block(call, "bcd")))
    assert actions == ()
    session, actions = step(session, TargetAttached())
    assert only(actions, AskVerify).call.block == ()
    assert session.draft.ready


def test_a_draft_that_comes_back_reads_everything_committed():
    session, _ = in_round("bcd")
    session, _ = step(session, DraftLost())
    session, actions = step(session, DraftAttached())
    assert only(actions, AskDraft).call.feed == ids("helloa")


def test_the_end_of_sequence_ends_the_answer_in_the_middle_of_a_block():
    session, ask = in_round("bcd")
    ask_block = (ids("b")[0], EOS, ids("d")[0])
    session = begun_with_block(session, ask_block)
    session, actions = step(session, verdict(ask.call, 3, "e"))
    chunk = only(actions, Emit).chunk
    assert chunk.text == "b"
    assert [token.id for token in chunk.tokens] == [ord("b"), EOS]
    assert chunk.finish_reason is FinishReason.STOP
    assert only(actions, Finish) == Finish(FinishReason.STOP)


def begun_with_block(session: Session, tokens: tuple[int, ...]) -> Session:
    from dataclasses import replace

    return session._replace(block=replace(session.block, tokens=tokens))


def test_ignore_eos_goes_on():
    session = prefilled(ignore_eos=True)
    session, actions = step(session, planned(0))
    session, actions = step(session, verdict(only(actions, AskVerify).call, 0, EOS))
    assert session.phase is Phase.PLANNING


def test_the_budget_cuts_a_block_short():
    session, ask = in_round("bcd", prefilled(max_tokens=3))
    session, actions = step(session, verdict(ask.call, 3, "e"))
    assert only(actions, Emit).chunk.text == "bc"
    assert only(actions, Finish).reason is FinishReason.LENGTH
    assert session.num_emitted == 3


def test_a_stop_string_across_chunks_is_never_shown():
    session = prefilled(stop=("cde",))
    session, ask = in_round("bc", session)
    session, actions = step(session, verdict(ask.call, 2, "d"))
    assert only(actions, Emit).chunk.text == "b"
    session, actions = step(session, planned(0))
    session, actions = step(session, verdict(only(actions, AskVerify).call, 0, "e"))
    chunk = only(actions, Emit).chunk
    assert (chunk.text, chunk.finish_reason) == ("", FinishReason.STOP)
    assert session.stop_match == "cde"


def test_text_held_back_for_a_stop_string_is_shown_when_the_answer_ends_otherwise():
    session, ask = in_round("bc", prefilled(stop=("cde",), max_tokens=3))
    _, actions = step(session, verdict(ask.call, 2, "x"))
    assert only(actions, Emit).chunk.text == "bc"


def test_a_stop_token_ends_the_answer_and_is_not_shown():
    session, ask = in_round("bcd", prefilled(stop_token_ids=(ord("c"),)))
    session, actions = step(session, verdict(ask.call, 3, "e"))
    assert only(actions, Emit).chunk.text == "b"
    assert session.stop_match == ord("c")


@pytest.mark.parametrize("stops", [{"stop": ("cd",)}, {"stop_token_ids": (ord("c"),)}], ids=str)
def test_what_ends_the_answer_is_shown_if_asked_for(stops):
    session, ask = in_round("bcd", prefilled(**stops, include_stop_str_in_output=True))
    session, actions = step(session, verdict(ask.call, 3, "e"))
    assert only(actions, Emit).chunk.text == ("bcd" if "stop" in stops else "bc")
    assert session.finish_reason is FinishReason.STOP


def test_stops_do_not_count_before_min_tokens():
    session = prefilled(stop=("b",), min_tokens=2)
    session, ask = in_round("bb", session)
    session, actions = step(session, verdict(ask.call, 2, "x"))
    assert only(actions, Emit).chunk.text == "b"  # the second b, token 3, is the first that may stop
    assert session.num_emitted == 3


def test_a_completed_round_is_told_with_its_times():
    session, ask = in_round("bc")
    _, actions = step(session, verdict(ask.call, 1, "x"))
    done = only(actions, Learn).round
    assert (done.num_drafted, done.draft_ms, done.verify_ms) == (2, 1.0, 2.0)


@pytest.mark.parametrize("phase", ["attaching", "prefilling", "planning", "drafting", "verifying"])
def test_cancel_and_failure_end_every_phase_once(phase):
    error = DeadlineExceeded("the request", 1.0)
    for event, reason in ((Cancel(), FinishReason.CANCELLED), (Fail(error), FinishReason.ERROR)):
        session = in_phase(phase)
        ended, actions = step(session, event)
        assert only(actions, Finish).reason is reason
        assert step(ended, event) == (ended, ())
        assert step(ended, TargetLost()) == (ended, ())


def in_phase(phase: str) -> Session:
    match phase:
        case "attaching":
            return begun()
        case "prefilling":
            return step(begun(), TargetAttached())[0]
        case "planning":
            return prefilled()
        case "drafting":
            return step(prefilled(), planned(4))[0]
        case _:
            return in_round("bc")[0]


def test_nonsense_is_refused():
    drafting = in_phase("drafting")
    verifying, ask = in_round("bc")
    nonsense = [
        (begun(), planned(3)),
        (begun(), TargetLost()),
        (verifying, TargetAttached()),
        (verifying, planned(3)),
        (verifying, DraftAttached()),
        (verifying, verdict(ask.call, 3, "x")),  # more accepted than drafted
        (verifying, verdict(ask.call, -1, "x")),
        (drafting, verdict(ask.call, 0, "x")) if ask.call.epoch > drafting.epoch else (begun(), planned(1)),
    ]
    for session, event in nonsense:
        with pytest.raises(IllegalEvent):
            step(session, event)


def test_a_verdict_from_the_future_or_of_another_length_is_refused():
    session, ask = in_round("bc")
    with pytest.raises(IllegalEvent):
        step(session, TargetAnswered(shifted(ask, epoch=ask.call.epoch + 5)))
    with pytest.raises(IllegalEvent):
        step(session, TargetAnswered(shifted(ask, base_len=3)))


def shifted(ask: AskVerify, **changes: int):
    return replace(verdict(ask.call, 1, "x").verdict, **changes)


def test_the_session_is_a_value_and_can_be_replayed():
    session, ask = in_round("bcd")
    first = step(session, verdict(ask.call, 2, "x"))
    assert step(session, verdict(ask.call, 2, "x")) == first
    assert play(session, verdict(ask.call, 2, "x"))[0] == first[0]


def learned(actions: tuple) -> RoundCompleted:
    return only(actions, Learn).round


def test_a_round_tells_the_rule_that_its_block_was_drafted_by():
    rule = StopRule(3, entropy_ceiling=1.5)
    session, actions = step(prefilled(), Planned(rule, AcceptanceRule()))
    session, actions = step(session, DraftAnswered(block(only(actions, AskDraft).call, "bc")))
    session, actions = step(session, verdict(only(actions, AskVerify).call, 0, "x"))
    assert learned(actions).rule == rule
    session, actions = step(session, planned(0))
    _, actions = step(session, verdict(only(actions, AskVerify).call, 0, "y"))
    assert learned(actions).rule is None  # nothing was drafted


@pytest.mark.parametrize(
    ("entropies", "drops_last", "judged"),
    [
        ((0.5, 0.2, 1.6), True, "bc"),
        ((0.5, 0.2, 1.6), False, "bcd"),
        ((0.5, 0.2, 1.5), True, "bcd"),  # it ended at its cap
        ((1.6,), True, "b"),  # at least 1
    ],
)
def test_the_token_that_passes_the_ceiling_is_left_out_if_asked(entropies, drops_last, judged):
    rule = StopRule(3, entropy_ceiling=1.5, drops_last=drops_last)
    session, actions = step(prefilled(), Planned(rule, AcceptanceRule()))
    drafted = replace(block(only(actions, AskDraft).call, "bcd"[: len(entropies)]), entropies=entropies)
    session, actions = step(session, DraftAnswered(drafted))
    call = only(actions, AskVerify).call
    assert call.block == ids(judged)
    session, actions = step(session, verdict(call, len(judged), "x"))
    assert learned(actions).drafted.entropies == entropies[: len(judged)]
    _, actions = step(session, planned(3))
    again = only(actions, AskDraft).call  # the draft has all but the last token cached
    assert (again.keep_len + len(again.feed), again.feed[-1:]) == (6 + len(judged) + 1, ids("x"))


def test_draft_rules_reach_the_draft_unchanged():
    rule = StopRule(7, entropy_ceiling=1.5, row_len=9)
    _, actions = step(prefilled(), Planned(rule, AcceptanceRule()))
    assert only(actions, AskDraft).call.rule == rule


def test_the_table_says_what_is_done_about_every_event_in_every_phase():
    assert set(TRANSITIONS) == set(Phase)
    assert all(set(row) == set(get_args(Event)) for row in TRANSITIONS.values())
    assert set(TRANSITIONS[Phase.FINISHED].values()) == {ignore}
    refused = {(phase, event) for phase, row in TRANSITIONS.items() for event in row if row[event] is refuse}
    begun_rounds = {Phase.PREFILLING, Phase.PLANNING, Phase.DRAFTING, Phase.VERIFYING}
    assert refused == {
        *((phase, TargetAttached) for phase in begun_rounds),
        *((phase, Planned) for phase in {Phase.ATTACHING, *begun_rounds} - {Phase.PLANNING}),
        (Phase.ATTACHING, TargetLost),
        (Phase.DRAFTING, DraftLeft),  # the runner holds it back
    }


@pytest.mark.parametrize(
    ("sampling", "emitted"),
    [
        ({"stop": ("c",)}, "bc"),
        ({"stop_token_ids": (ord("b"),)}, "b"),
        ({"max_tokens": 3}, "bc"),
        ({}, "bcde"),
    ],
    ids=str,
)
def test_tokens_behind_the_end_of_the_answer_count_nowhere(sampling, emitted):
    session, ask = in_round("bcd", prefilled(**sampling))
    session, actions = step(session, verdict(ask.call, 3, "e"))
    num_accepted = min(3, len(emitted))
    assert "".join(chr(token.id) for token in only(actions, Emit).chunk.tokens) == emitted
    assert learned(actions).num_accepted == num_accepted
    assert learned(actions).verdict.num_accepted == 3  # the verdict itself is unchanged
    assert session.counts.accepted_per_round == (num_accepted,)
    assert session.counts.of_kind(TokenKind.EXACT) == num_accepted
    assert sum(session.counts.by_kind) == session.num_emitted


def test_what_a_second_target_had_cached_is_not_counted():
    """Clients take cached tokens for a part of the prompt."""
    session, _ = start("abcd", max_tokens=9)
    session, actions = play(session, TargetAttached())
    session, actions = play(session, verdict(only(actions, AskVerify).call, 0, "e", cached_tokens=3))
    session, actions = play(session, planned(0), TargetLost(), TargetAttached())
    session, actions = play(session, verdict(only(actions, AskVerify).call, 0, "f", cached_tokens=4))
    assert session.counts.cached_tokens == 3
