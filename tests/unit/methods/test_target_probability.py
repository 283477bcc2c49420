"""Acceptance by the target's own probability: hand-worked cases, the bounds of docs/collision.md, planted bugs."""

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adasd.errors import InvalidRequest
from adasd.methods.acceptance.collision import Collision
from adasd.rounds import AcceptanceRule, SamplingTransform
from adasd.specdec.blocks import check_block
from adasd.specdec.relaxation import RelaxationBatch
from tests.unit.specdec.sessions import Session, draft_block, of_batch, run, seeded, twin

GREEDY = SamplingTransform(temperature=0.0)
COIN = [0.55, 0.25, 0.2]  # sum p^2 = .3025 + .0625 + .04 = .405 ; exp(-H) = .3685


def collision(ratio, budget=9) -> AcceptanceRule:
    return AcceptanceRule("collision", {"ratio": ratio}, budget)


def typical(epsilon, delta, budget=9) -> AcceptanceRule:
    return AcceptanceRule("typical", {"epsilon": epsilon, "delta": delta}, budget)


def regret(most, block=9.0, budget=9) -> AcceptanceRule:
    return AcceptanceRule("regret", {"max_regret": most, "block_budget": block}, budget)


def session(probs, token, rule, transform=GREEDY) -> Session:
    """One drafted token, without draft probabilities, and these target probabilities."""
    return Session(torch.tensor([probs, probs]).log(), (token,), None, transform, rule=rule)


def accepted(*sessions: Session) -> list[int]:
    return run(sessions, seeded(0)).judgement.num_accepted_B.tolist()


@pytest.mark.parametrize(
    ("rule", "stands"),
    [
        (collision(0.61), [True, True, False]),  # .61 * .405 = .247
        (collision(0.49), [True, True, True]),  # .198
        (collision(0.62), [True, False, False]),  # .251
        (typical(1.0, 0.6), [True, True, False]),  # .6 * .3689 = .221
        (typical(0.19, 0.6), [True, True, True]),  # .19 is always enough
        (typical(0.2, 0.6), [True, True, False]),  # needs more than .2
        (regret(-math.log(0.4)), [True, True, False]),  # .4 * .55 = .22
        (regret(-math.log(0.4), block=0.5), [True, False, False]),  # log(.55 / .25) = .79 nats
    ],
)
def test_the_bound_by_hand_without_the_drafts_distribution(rule, stands):
    assert accepted(*(session(COIN, token, rule) for token in range(3))) == [int(ok) for ok in stands]


def test_where_the_target_is_sure_one_half_relaxes_nothing():
    """max p > sqrt(3) - 1: the mass of all other tokens is below half of (max p)^2 (docs/collision.md)."""
    sure, unsure = math.sqrt(3) - 1 + 0.001, math.sqrt(3) - 1 - 0.001
    rule = collision(0.5)
    assert accepted(session([sure, 1 - sure], 1, rule)) == [0]
    # all the rest on one token: the bar sum p^2 = m^2 + (1 - m)^2 is still higher
    assert accepted(session([unsure, 1 - unsure], 1, rule)) == [0]
    assert accepted(session([0.69, 0.31], 1, rule)) == [1]  # .5 * .5722 = .2861
    assert accepted(session([0.71, 0.29], 1, rule)) == [0]  # .5 * .5882 = .2941


def test_probabilities_are_taken_at_temperature_one_after_masks():
    probs, rule = [0.4, 0.3, 0.3], collision(0.9)  # .9 * .34 = .306
    assert accepted(session(probs, 1, rule)) == [0]
    masked = SamplingTransform(temperature=0.0, logit_bias=((2, -math.inf),))  # (4/7, 3/7): .9 * .5102 = .459
    assert accepted(session(probs, 1, rule, masked)) == [0]
    boosted = SamplingTransform(
        temperature=0.0, logit_bias=((0, math.log(0.75)), (1, -0.01))
    )  # equal up to rounding
    assert accepted(session(probs, 1, rule, boosted)) == [1]
    assert accepted(session(probs, 2, collision(0.01), masked)) == [0]  # forbidden: never
    hot = SamplingTransform(
        temperature=0.1, seed=4
    )  # the sampling distribution is almost a point mass; the rule uses T = 1
    assert accepted(session(probs, 1, collision(0.8), hot)) == [1]


@pytest.mark.parametrize(
    "transform",
    [
        SamplingTransform(top_k=1, seed=3),
        SamplingTransform(top_p=0.3, seed=3),
        SamplingTransform(min_p=0.9, seed=3),
    ],
)
def test_what_the_transform_cuts_off_is_never_accepted(transform):
    assert accepted(session([0.4, 0.3, 0.3], 1, collision(0.1), transform)) == [0]


@pytest.mark.parametrize("budget", [0, 1, 2, 5])
def test_it_keeps_to_the_budget(budget):
    logits = torch.tensor([COIN] * 4).log()
    three = Session(logits, (1, 1, 1), None, GREEDY, rule=collision(0.1, budget))
    assert accepted(three) == [min(budget, 3)]


def test_sessions_of_all_rules_share_a_batch():
    rules = [collision(0.61), typical(1.0, 0.6), regret(0.9)]
    sessions = [session(COIN, 1, rule) for rule in (*rules, AcceptanceRule(), *rules)]
    assert accepted(*sessions) == [accepted(one)[0] for one in sessions]


def test_no_rows_are_asked_for_unless_the_exact_test_needs_them():
    rule = collision(0.5, 1)
    check_block(GREEDY, (1,), None, rule, 3)
    check_block(SamplingTransform(seed=1), (1,), None, rule, 3)
    with pytest.raises(InvalidRequest, match="without draft rows"):
        check_block(SamplingTransform(), (1,), None, rule, 3)


# --------------------------------------------------------------------------- the bounds of docs/collision.md

distributions = st.lists(st.floats(1e-4, 1.0), min_size=2, max_size=12).map(
    lambda weights: torch.tensor(weights, dtype=torch.float64) / sum(weights)
)


@settings(max_examples=300)
@given(distributions, st.floats(0.05, 1.0))
def test_bounds_on_what_the_rule_can_accept(probs, ratio):
    collision = probs.square().sum()
    entropy = -(probs * probs.log()).sum()
    liked = probs >= ratio * collision
    assert liked[probs.argmax()]  # the target's first choice always passes
    assert liked.sum() <= 1 / (ratio * collision) + 1e-9  # no tail: at most N_2 / c tokens
    surprise = -probs[liked].log()
    assert (surprise <= -collision.log() - math.log(ratio) + 1e-9).all()
    assert (surprise <= entropy - math.log(ratio) + 1e-9).all()  # collision entropy <= Shannon entropy
    largest = probs.max()
    if largest > (math.sqrt(1 + 4 * ratio) - 1) / (2 * ratio) + 1e-9:
        assert liked.sum() == 1
    mass = probs[liked].sum()
    if ratio < 1:
        assert mass >= (1 - ratio) * collision / (largest - ratio * collision) - 1e-9


# --------------------------------------------------------------------------- planted bugs


def mismatches(seed: int = 0) -> int:
    """How often the batched code and its slow twin differ on 120 random sessions with this rule."""
    rng, generator = random.Random(seed), seeded(seed)
    sessions = []
    for _ in range(120):
        target = 1.5 * torch.randn(4, 12, generator=generator)
        transform = SamplingTransform(temperature=0.0, logit_bias=((3, 2.0), (5, -100.0)))
        draft = target[:-1] + 1.0 * torch.randn(3, 12, generator=generator)
        block, _ = draft_block(draft, transform, 5, 0, generator)
        rule = rng.choice(
            [collision(rng.uniform(0.2, 1.0)), typical(0.2, rng.random()), regret(rng.random(), 1.0)]
        )
        sessions.append(Session(target, block, None, transform, rule=rule))
    judged = run(sessions, generator)
    pairs = [(of_batch(judged.judgement, b, s), twin(judged, b, None, s)) for b, s in enumerate(sessions)]
    return sum((a.num_accepted, a.relaxed) != (b.num_accepted, b.relaxed) for a, b in pairs)


def test_the_twin_agrees():
    assert mismatches() == 0


def collision_of(power: float):
    """The rule with a power other than 2 of each probability."""

    def chance(at, ids_GKN):
        return (
            at.probs_of(ids_GKN) >= at.number("ratio") * at.probs_GKV.pow(power).sum(-1, keepdim=True)
        ).float()

    return staticmethod(chance)


@pytest.mark.parametrize("power", [1.0, 1.5, 3.0])
def test_a_wrong_sum_is_noticed(power, monkeypatch):
    monkeypatch.setattr(Collision, "chance", collision_of(power))
    assert mismatches() > 0


def test_a_shifted_position_is_noticed(monkeypatch):
    honest = RelaxationBatch.probs_of
    monkeypatch.setattr(RelaxationBatch, "probs_of", lambda at, ids: honest(at, ids).roll(1, dims=1))
    assert mismatches() > 0
