"""The bypass begins when drafting does not pay, tries drafting again by itself, and does not flap."""

from __future__ import annotations

import random

from adasd.control.bypass import FIRST_WAIT, LONGEST_WAIT, TRIAL_ROUNDS, Bypass
from adasd.rounds import DraftBlock, RoundCompleted, Verdict

PLAIN_MS = 10.0


def drafted_round(
    num_accepted: int, draft_ms: float, verify_ms: float = 11.0, length: int = 4
) -> RoundCompleted:
    block = DraftBlock("s", 1, 0, (1,) * length, (0.5,) * length)
    return RoundCompleted(block, Verdict("s", 2, 0, num_accepted, 1), draft_ms, verify_ms)


def plain_round() -> RoundCompleted:
    return RoundCompleted(None, Verdict("s", 2, 0, 0, 1), 0.0, PLAIN_MS)


def drive(bypass: Bypass, num_rounds: int, num_accepted: int, draft_ms: float) -> tuple[Bypass, int]:
    """Runs rounds under the bypass; returns how many of them drafted."""
    num_drafted = 0
    for _ in range(num_rounds):
        if bypass.may_draft:
            num_drafted += 1
            bypass = bypass.learn(drafted_round(num_accepted, draft_ms), PLAIN_MS)
        else:
            bypass = bypass.learn(plain_round(), PLAIN_MS)
    return bypass, num_drafted


def test_drafting_that_pays_is_left_alone():
    bypass, num_drafted = drive(
        Bypass(), 500, num_accepted=3, draft_ms=8.0
    )  # 4 tokens in 19 ms against 1 in 10
    assert bypass.drafts
    assert num_drafted == 500


def test_drafting_that_costs_more_than_it_brings_is_bypassed_within_a_few_rounds():
    bypass, num_drafted = drive(Bypass(), 12, num_accepted=0, draft_ms=8.0)  # 1 token in 19 ms
    assert not bypass.drafts
    assert num_drafted <= 8


def test_a_hopeless_draft_costs_less_and_less():
    bypass, _ = drive(Bypass(), 12, num_accepted=0, draft_ms=8.0)
    bypass, early = drive(bypass, 100, num_accepted=0, draft_ms=8.0)
    bypass, _ = drive(bypass, 1000, num_accepted=0, draft_ms=8.0)
    bypass, late = drive(bypass, 1000, num_accepted=0, draft_ms=8.0)
    assert bypass.wait == LONGEST_WAIT
    assert early <= 3 * TRIAL_ROUNDS
    assert 0 < late <= 5 * TRIAL_ROUNDS


def test_it_opens_again_when_drafting_pays_again():
    bypass, _ = drive(Bypass(), 60, num_accepted=0, draft_ms=8.0)
    assert not bypass.drafts
    bypass, _ = drive(bypass, 2 * LONGEST_WAIT, num_accepted=3, draft_ms=8.0)
    assert bypass.drafts


def test_what_went_well_for_long_is_tried_again_soon():
    bypass, _ = drive(Bypass(), 400, num_accepted=0, draft_ms=8.0)
    bypass, _ = drive(bypass, 1000, num_accepted=3, draft_ms=8.0)
    assert bypass.drafts
    bypass, _ = drive(bypass, 40, num_accepted=0, draft_ms=8.0)
    assert not bypass.drafts
    assert bypass.wait <= 2 * FIRST_WAIT


def test_old_failures_do_not_weigh_on_a_trial():
    bypass, _ = drive(Bypass(), 12, num_accepted=0, draft_ms=500.0)
    bypass, _ = drive(bypass, FIRST_WAIT + TRIAL_ROUNDS, num_accepted=3, draft_ms=8.0)
    assert bypass.drafts


def test_a_draw_does_not_make_it_flap():
    rng = random.Random(0)
    bypass, changes = Bypass(), 0
    for _ in range(2000):  # drafting is worth what it costs, with noise
        before = bypass.drafts
        if bypass.may_draft:
            bypass = bypass.learn(drafted_round(rng.choice((0, 1, 1, 2)), rng.uniform(8.0, 10.0)), PLAIN_MS)
        else:
            bypass = bypass.learn(plain_round(), PLAIN_MS)
        changes += bypass.drafts != before
    assert changes <= 20


def test_without_a_measured_plain_round_nothing_is_decided():
    bypass = Bypass()
    for _ in range(50):
        bypass = bypass.learn(drafted_round(0, 100.0), None)
    assert bypass.drafts
