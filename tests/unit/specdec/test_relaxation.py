"""Relaxed rules: their laws worked out, the pair (extra acceptance, distortion), budgets and refusals."""

import math

import pytest
import torch
from torch import Tensor

from adasd.errors import InvalidRequest
from adasd.rounds import (
    AcceptRule,
    RelaxBelow,
    RelaxDivergence,
    RelaxOwnLaw,
    RelaxTable,
    RelaxTolerance,
    SamplingTransform,
)
from adasd.specdec.blocks import check_block
from adasd.specdec.mentored import bounds
from tests.unit.specdec.sessions import Session, draft_block, of_batch, run, seeded

P = torch.tensor([0.5, 0.3, 0.2, 0.0], dtype=torch.float64)
Q = torch.tensor([0.2, 0.3, 0.3, 0.2], dtype=torch.float64)
NUM_SESSIONS = 2_000
RULES = [
    RelaxBelow(1.0),
    RelaxTable((0.5,) * 256),
    RelaxOwnLaw(0.5),
    RelaxTolerance(0.4),
    RelaxDivergence(0.05),
]


def judged(
    rule: AcceptRule, num_drafted: int = 1, num_sessions: int = NUM_SESSIONS
) -> tuple[list[Session], object]:
    """Sessions of the pair (P, Q), the same at every position."""
    generator = seeded(3)
    logits = P.log().float().expand(num_drafted + 1, 4)
    drafts = [
        draft_block(Q.log().float().expand(num_drafted, 4), SamplingTransform(), 5, 4, generator)
        for _ in range(num_sessions)
    ]
    sessions = [Session(logits, block, rows, rule=rule) for block, rows in drafts]
    return sessions, run(sessions, generator).judgement


def nearby(limit: float) -> tuple[Tensor, float]:
    """(pi, a) of mentored decoding for the pair."""
    found = bounds(P[None], Q[None], torch.tensor([limit], dtype=torch.float64))
    a, b = float(found.lower_N), float(found.upper_N)
    return torch.minimum(torch.maximum(Q, P / b), P / a), a


def test_mentored_decodings_law_has_its_divergence_and_the_most_overlap():
    pi, a = nearby(0.01)
    support = P > 0
    assert pi.sum() == pytest.approx(1.0)
    assert (P[support] * (P[support] / pi[support]).log()).sum() == pytest.approx(0.01, abs=1e-9)
    assert pi[3] == 0  # nothing that the target forbids
    best = torch.minimum(pi, Q).sum()
    generator = seeded(0)
    others = torch.softmax(
        P.log() + 0.15 * torch.randn(20_000, 4, generator=generator, dtype=torch.float64), -1
    )
    spent = (P[support] * (P[support] / others[:, support]).log()).sum(-1)
    assert torch.minimum(others[spent <= 0.01], Q).sum(-1).max() < best + 1e-9
    assert (spent <= 0.01).sum() > 100
    assert a < 1


def test_no_divergence_is_rejection_sampling():
    pi, a = nearby(0.0)
    assert (a, pi.tolist()) == (1.0, P.tolist())


@pytest.mark.parametrize("relax", RULES, ids=lambda relax: type(relax).__name__)
def test_extra_acceptance_and_distortion_are_the_same_number(relax):
    _, judgement = judged(AcceptRule(relax, 9, isinstance(relax, RelaxBelow | RelaxTable)), num_drafted=1)
    relaxed = judgement.relaxed_BK.double().mean().item()
    distortion = judgement.distortion_B.double()
    assert distortion.std() < 1e-6  # it does not depend on the token
    expected = distortion.mean().item()
    assert 0.02 < expected < 0.21
    assert abs(relaxed - expected) < 4 * math.sqrt(expected / len(judgement.relaxed_BK))
    accepted = judgement.num_accepted_B.double().mean().item()
    assert abs(accepted - (0.7 + expected)) < 4 * math.sqrt(0.25 / len(judgement.relaxed_BK))


@pytest.mark.parametrize(
    ("relax", "cost"),
    [
        (
            RelaxBelow(1.0),
            0.1,
        ),  # (q - p)+ of what is allowed: .1 at the third token, .2 at the last is forbidden
        (RelaxTable((0.25,) * 256), 0.025),
        (RelaxOwnLaw(0.5), 0.1),  # sum p^2 = .38: the third token's .2 is enough
        (RelaxOwnLaw(0.6), 0.0),
        (RelaxTolerance(0.4), 0.06),  # .4 (1 - .5) q = .06 of the third token's excess of .1
        (RelaxTolerance(1.0), 0.1),
    ],
)
def test_costs_by_hand(relax, cost):
    _, judgement = judged(AcceptRule(relax, 9), num_sessions=3)
    assert judgement.distortion_B[0].item() == pytest.approx(cost, abs=1e-6)


@pytest.mark.parametrize(
    ("relax", "law", "cost"),
    [
        # what is drawn from q and allowed (.8 of it) stands, the rest is drawn from p anew
        (RelaxBelow(1.0), (0.2 + 0.2 * 0.5, 0.3 + 0.2 * 0.3, 0.3 + 0.2 * 0.2, 0.0), 0.2),
        (RelaxTable((0.5,) * 256), (0.1 + 0.6 * 0.5, 0.15 + 0.6 * 0.3, 0.15 + 0.6 * 0.2, 0.0), 0.1),
        (RelaxBelow(0.0), (0.5, 0.3, 0.2, 0.0), 0.0),  # refuses all
    ],
)
def test_the_law_of_a_distance_alone_by_hand(relax, law, cost):
    """Bounds at 4 standard deviations, with a fixed seed."""
    sessions, judgement = judged(AcceptRule(relax, 9, alone=True))
    assert judgement.distortion_B[0].item() == pytest.approx(cost, abs=1e-6)
    assert sum(max(0.0, pi - p) for pi, p in zip(law, P.tolist(), strict=True)) == pytest.approx(cost)
    drafted = torch.tensor([session.block[0] for session in sessions])
    first = torch.where(judgement.num_accepted_B > 0, drafted, judgement.next_token_B)
    for token, chance in enumerate(law):
        share = (first == token).double().mean().item()
        assert abs(share - chance) <= 4 * math.sqrt(chance * (1 - chance) / len(sessions))


def test_a_distance_alone_refuses_what_the_exact_test_would_pass():
    logits = torch.tensor([[0.6, 0.3, 0.1]] * 2).log()
    block, rows = draft_block(
        torch.tensor([[0.9, 0.05, 0.05]]).log(), SamplingTransform(temperature=0.0), 5, 3
    )
    for budget, accepted in ((0, 1), (9, 0)):  # without a budget the exact test decides
        rule = AcceptRule(RelaxBelow(0.1), budget, alone=True)
        session = Session(logits, block, rows, SamplingTransform(temperature=0.0), rule=rule)
        outcome = of_batch(run([session]).judgement, 0, session)
        assert (outcome.num_accepted, outcome.next_token) == (accepted, 0)
        assert (outcome.exact_ok, outcome.distortion) == ((True,), 0.0)


def test_only_a_distance_can_stand_alone():
    for rule in (AcceptRule(RelaxOwnLaw(0.5), 1, alone=True), AcceptRule(RelaxTolerance(0.1), 1, alone=True)):
        with pytest.raises(InvalidRequest, match="only a rule by distance"):
            check_block(SamplingTransform(), (), None, rule, 5)
    check_block(
        SamplingTransform(), (), None, AcceptRule(None, want_distances=True, alone=True), 5
    )  # not warm yet


def test_the_budget_of_total_variation_is_kept_position_by_position():
    rule = AcceptRule(RelaxBelow(1.0), 9, max_distortion=0.25)
    _, judgement = judged(rule, num_drafted=4)
    assert judgement.distortion_B.max().item() == pytest.approx(0.2, abs=1e-6)  # two offers of .1, no third
    assert not judgement.relaxed_BK[:, 2:].any()
    assert judgement.relaxed_BK[:, 1].any()


def test_a_greedy_sessions_relaxed_token_costs_one():
    transform = SamplingTransform(temperature=0.0)
    logits = torch.tensor([[0.4, 0.35, 0.25]] * 4).log()
    for most, accepted in [(0.9, 0), (1.0, 1), (2.5, 2), (math.inf, 3)]:
        session = Session(
            logits, (1, 1, 1), None, transform, rule=AcceptRule(RelaxOwnLaw(0.5), 9, max_distortion=most)
        )
        outcome = of_batch(run([session]).judgement, 0, session)
        assert (outcome.num_accepted, outcome.distortion) == (accepted, accepted)


@pytest.mark.parametrize("relax", [RelaxTolerance(0.2), RelaxDivergence(0.1)])
@pytest.mark.parametrize("transform", [SamplingTransform(temperature=0.0), SamplingTransform(seed=1)])
def test_rules_of_rejection_sampling_are_refused_where_tokens_are_matched(transform, relax):
    with pytest.raises(InvalidRequest, match="rejection sampling"):
        check_block(transform, (1,), None, AcceptRule(relax, 1), 5)


@pytest.mark.parametrize(
    "rule",
    [
        AcceptRule(RelaxTolerance(1.5), 1),
        AcceptRule(RelaxTolerance(math.nan), 1),
        AcceptRule(RelaxDivergence(-0.1), 1),
        AcceptRule(RelaxDivergence(math.nan), 1),
        AcceptRule(max_distortion=-1.0),
        AcceptRule(max_distortion=math.nan),
    ],
)
def test_numbers_out_of_range_are_refused(rule):
    with pytest.raises(InvalidRequest):
        check_block(SamplingTransform(), (), None, rule, 5)
