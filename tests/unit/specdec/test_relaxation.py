"""Relaxation: the pair (extra acceptance, distortion), budgets, and methods that look along the block."""

import math

import pytest
import torch

from adasd.rounds import AcceptanceRule, SamplingTransform
from tests.unit.specdec.sessions import Session, draft_block, of_batch, run, seeded

P = torch.tensor([0.5, 0.3, 0.2, 0.0], dtype=torch.float64)
Q = torch.tensor([0.2, 0.3, 0.3, 0.2], dtype=torch.float64)
NUM_SESSIONS = 2_000
GREEDY = SamplingTransform(temperature=0.0)


def within(distance: float, **budgets: float) -> AcceptanceRule:
    return AcceptanceRule("fsd", {"max_distance": distance}, 9, **budgets)


def by_table(chance: float) -> AcceptanceRule:
    return AcceptanceRule("adasd", {"chances": (chance,) * 256, "min_ratio": 0.0}, 9)


def collision(ratio: float, **budgets: float) -> AcceptanceRule:
    return AcceptanceRule("collision", {"ratio": ratio}, 9, **budgets)


def fly(window: int, min_entropy: float = 0.0) -> AcceptanceRule:
    return AcceptanceRule("fly", {"window": float(window), "min_entropy": min_entropy}, 9)


def regret(most: float, block: float) -> AcceptanceRule:
    return AcceptanceRule("regret", {"max_regret": most, "block_budget": block}, 9)


def judged(
    rule: AcceptanceRule, num_drafted: int = 1, num_sessions: int = NUM_SESSIONS
) -> tuple[list[Session], object]:
    """Sessions with target P and draft Q at every position."""
    generator = seeded(3)
    logits = P.log().float().expand(num_drafted + 1, 4)
    drafts = [
        draft_block(Q.log().float().expand(num_drafted, 4), SamplingTransform(), 5, 4, generator)
        for _ in range(num_sessions)
    ]
    sessions = [Session(logits, block, rows, rule=rule) for block, rows in drafts]
    return sessions, run(sessions, generator).judgement


@pytest.mark.parametrize(
    "rule", [within(1.0), by_table(0.5), collision(0.5), regret(1.0, 9.0)], ids=lambda rule: rule.name
)
def test_extra_acceptance_and_distortion_are_the_same_number(rule):
    _, judgement = judged(rule)
    relaxed = judgement.relaxed_BK.double().mean().item()
    distortion = judgement.distortion_B.double()
    assert distortion.std() < 1e-6  # the distance does not depend on the token
    expected = distortion.mean().item()
    assert 0.02 < expected < 0.21
    assert abs(relaxed - expected) < 4 * math.sqrt(expected / len(judgement.relaxed_BK))
    accepted = judgement.num_accepted_B.double().mean().item()
    assert abs(accepted - (0.7 + expected)) < 4 * math.sqrt(0.25 / len(judgement.relaxed_BK))


@pytest.mark.parametrize(
    ("rule", "cost"),
    [
        # (q - p)+ of what is allowed: .1 at the third token, .2 at the last is forbidden
        (within(1.0), 0.1),
        (by_table(0.25), 0.025),
        (collision(0.5), 0.1),  # sum p^2 = .38: the third token's .2 is enough
        (collision(0.6), 0.0),
        (regret(0.92, 9.0), 0.1),  # log(.5 / .2) = .916
        (regret(0.91, 9.0), 0.0),
        (regret(0.92, 0.91), 0.0),
    ],
)
def test_costs_by_hand(rule, cost):
    _, judgement = judged(rule, num_sessions=3)
    assert judgement.distortion_B[0].item() == pytest.approx(cost, abs=1e-6)


@pytest.mark.parametrize(("min_ratio", "cost"), [(0.0, 0.1), (0.39, 0.1), (0.41, 0.0)])
@pytest.mark.parametrize("name", ["adasd", "adasd-v1"])
def test_the_guard_bounds_the_targets_probability_relative_to_its_largest(name, min_ratio, cost):
    """The third token has .2 / .5 = .4 of the largest."""
    params = {"chances": (1.0,) * 256} if name == "adasd" else {"max_distance": 1.0}
    _, judgement = judged(AcceptanceRule(name, {**params, "min_ratio": min_ratio}, 9), num_sessions=3)
    assert judgement.distortion_B[0].item() == pytest.approx(cost, abs=1e-6)


def test_the_budget_of_total_variation_is_kept_position_by_position():
    _, judgement = judged(within(1.0, max_distortion=0.25), num_drafted=4)
    assert judgement.distortion_B.max().item() == pytest.approx(0.2, abs=1e-6)  # twice .1, no third time
    assert not judgement.relaxed_BK[:, 2:].any()
    assert judgement.relaxed_BK[:, 1].any()


def test_a_greedy_sessions_relaxed_token_costs_one():
    logits = torch.tensor([[0.4, 0.35, 0.25]] * 4).log()
    for most, accepted in [(0.9, 0), (1.0, 1), (2.5, 2), (math.inf, 3)]:
        session = Session(logits, (1, 1, 1), None, GREEDY, rule=collision(0.5, max_distortion=most))
        outcome = of_batch(run([session]).judgement, 0, session)
        assert (outcome.num_accepted, outcome.distortion) == (accepted, accepted)


def greedy_accepts(block: tuple[int, ...], rule: AcceptanceRule) -> int:
    """Tokens accepted by a target with the probabilities .4, .35, .25 at every position."""
    logits = torch.tensor([[0.4, 0.35, 0.25]] * (len(block) + 1)).log()
    session = Session(logits, block, None, GREEDY, rule=rule)
    return of_batch(run([session]).judgement, 0, session).num_accepted


@pytest.mark.parametrize(
    ("block", "rule", "accepted"),
    [
        ((1, 0, 0), fly(2), 3),  # the window is the whole rest
        ((1, 0, 0), fly(3), 0),  # it reaches beyond the block
        ((1, 0, 1, 0), fly(2), 0),  # it meets another mismatch
        ((1, 0, 1, 0), fly(1), 4),  # each is followed by a token that agrees
        ((0, 0, 1), fly(1), 2),
        ((1, 0, 0), fly(2, min_entropy=1.07), 3),  # H = 1.0805 nats
        ((1, 0, 0), fly(2, min_entropy=1.09), 0),
    ],
)
def test_fly_waits_for_what_follows(block, rule, accepted):
    assert greedy_accepts(block, rule) == accepted


@pytest.mark.parametrize(
    ("block", "rule", "accepted"),
    [
        (
            (1, 1, 1),
            regret(0.41, 9.0),
            3,
        ),  # log(.4 / .35) = .1335; of .41 a third, .1367, is left to the last
        ((1, 1, 1), regret(0.40, 9.0), 2),
        ((1, 1, 1), regret(9.0, 0.2671), 2),
        ((1, 0, 1), regret(9.0, 0.2671), 3),  # agreeing tokens cost nothing
        ((1, 0, 1), regret(9.0, 0.2669), 2),
        ((2, 0, 0), regret(0.0, 0.0), 0),
    ],
)
def test_regret_is_weighed_along_the_block_and_summed(block, rule, accepted):
    assert greedy_accepts(block, rule) == accepted


def test_tokens_that_depend_on_what_follows_cost_one_each():
    _, judgement = judged(fly(1), num_drafted=3, num_sessions=400)
    assert judgement.relaxed_BK.any()
    assert judgement.distortion_B.tolist() == pytest.approx(judgement.relaxed_BK.sum(1).tolist())
