"""Verification: hand-worked blocks, the slow twin, and the guarantees of every mode."""

import math
import random

import numpy as np
import pytest
import torch

from adasd.rounds import NUM_DISTANCE_BINS, AcceptanceRule, DraftDistributions, SamplingTransform
from adasd.specdec.blocks import BlockBatch
from adasd.specdec.distributions import Kind, TransformBatch, kind_of, transformed_probs
from adasd.specdec.verify import RandomNumbers, judge
from tests.unit.specdec.sessions import Session, draft_block, of_batch, random_session, run, seeded, twin

GREEDY = SamplingTransform(temperature=0.0)


def within(distance: float, budget: int = 9, **more) -> AcceptanceRule:
    """Accepts up to this distance."""
    return AcceptanceRule("fsd", {"max_distance": distance}, budget, **more)


def by_table(chances: tuple[float, ...], budget: int = 9) -> AcceptanceRule:
    """Accepts with a probability that depends on the distance."""
    return AcceptanceRule("adasd", {"chances": chances, "min_ratio": 0.0}, budget)


def logits_of(*choices: int, vocab_size: int = 6) -> torch.Tensor:
    """Logits for each choice: its own is 1 above the rest."""
    return torch.eye(vocab_size)[list(choices)]


def distributions_of(*probs: list[float]) -> DraftDistributions:
    ids = np.tile(np.arange(len(probs[0]), dtype=np.int32), (len(probs), 1))
    with np.errstate(divide="ignore"):
        return DraftDistributions(ids, np.log(np.array(probs, np.float32)))


# --------------------------------------------------------------------------- greedy, by hand


@pytest.mark.parametrize(
    ("block", "accepted", "next_token"),
    [((), 0, 1), ((1,), 1, 2), ((0,), 0, 1), ((1, 2, 3), 3, 4), ((1, 0, 3), 1, 2), ((0, 2, 3), 0, 1)],
)
def test_greedy_accepts_up_to_the_first_mismatch_and_emits_the_targets_token(block, accepted, next_token):
    session = Session(logits_of(1, 2, 3, 4)[: len(block) + 1], block, transform=GREEDY)
    outcome = of_batch(run([session]).judgement, 0, session)
    assert (outcome.num_accepted, outcome.next_token) == (accepted, next_token)
    assert outcome.exact_ok == (True,) * accepted + (False,) * (accepted < len(block))


def relaxed_session(rule: AcceptanceRule, masked: tuple[int, ...] = ()) -> Session:
    """Greedy: the target chooses 1, the draft proposed 2 three times; both distributions are equal there."""
    transform = SamplingTransform(temperature=0.0, logit_bias=tuple((token, -math.inf) for token in masked))
    target = torch.tensor([[0.1, 0.3, 0.2, 0.2, 0.1, 0.1]] * 4).log()
    rows = distributions_of(*[[0.1, 0.3, 0.2, 0.2, 0.1, 0.1]] * 3)
    return Session(target, (2, 2, 2), rows, transform, rule=rule)


@pytest.mark.parametrize("budget", [0, 1, 2, 3, 4])
def test_relaxation_stops_at_its_budget(budget):
    session = relaxed_session(within(0.1, budget))
    outcome = of_batch(run([session]).judgement, 0, session)
    assert outcome.num_accepted == min(budget, 3)
    assert outcome.relaxed == (True,) * min(budget, 3)
    assert outcome.next_token == 1
    assert not any(outcome.exact_ok)


def test_tokens_after_a_relaxed_one_meet_the_exact_test_first_and_cost_no_budget():
    session = relaxed_session(within(0.1, 1))
    target = session.target_logits.clone()
    target[1] = torch.tensor([0.1, 0.2, 0.3, 0.2, 0.1, 0.1]).log()
    session = Session(target, session.block, session.distributions, session.transform, rule=session.rule)
    outcome = of_batch(run([session]).judgement, 0, session)
    assert outcome.exact_ok == (False, True, False)
    assert outcome.relaxed == (True, False)
    assert (outcome.num_accepted, outcome.next_token) == (2, 1)


def test_relaxation_never_accepts_what_the_request_forbids():
    # an end-of-sequence id and a token with bias -inf, at a distance that the rule would accept
    session = relaxed_session(within(1.0), masked=(2,))
    assert of_batch(run([session]).judgement, 0, session).num_accepted == 0
    base = relaxed_session(within(1.0))
    transform = SamplingTransform(temperature=0.0, eos_ids=(2,), eos_from=7)
    early = Session(base.target_logits, base.block, base.distributions, transform, base_len=5, rule=base.rule)
    late = Session(base.target_logits, base.block, base.distributions, transform, base_len=7, rule=base.rule)
    judgement = run([early, late]).judgement
    assert judgement.num_accepted_B.tolist() == [0, 3]


@pytest.mark.parametrize(
    "transform",
    [
        SamplingTransform(top_k=2),
        SamplingTransform(top_k=2, seed=3),
        SamplingTransform(top_p=0.6),
        SamplingTransform(min_p=0.8),
    ],
)
def test_relaxation_never_accepts_what_the_transform_cuts_off(transform):
    # token 3 fails top-k 2, the nucleus of 0.6 and min-p 0.8; raw distances are 0
    probs = [0.5, 0.41, 0.05, 0.04]
    target = torch.tensor([probs] * 2).log()
    session = Session(target, (3,), distributions_of(probs), transform, rule=within(1.0))
    assert run([session], seeded(0)).judgement.num_accepted_B.tolist() == [0]


def test_distance_decides_by_the_bound():
    draft = [0.5, 0.5, 0.0]
    target = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]).clamp_min(1e-12).log()
    distance = math.sqrt(0.311278)  # a point mass against a coin, test_divergence
    for bound, accepted in ((distance - 0.001, 0), (distance + 0.001, 1)):
        rule = within(bound, 1, want_distances=True)
        session = Session(target, (1,), distributions_of(draft), GREEDY, rule=rule)
        judgement = run([session]).judgement
        assert judgement.num_accepted_B.tolist() == [accepted]
        assert judgement.distance_BK.item() == pytest.approx(distance, abs=1e-5)


def test_a_table_is_read_at_the_distance_and_its_last_bin_holds_one():
    def table(*bins: int) -> AcceptanceRule:
        return by_table(tuple(float(i in bins) for i in range(NUM_DISTANCE_BINS)))

    equal = relaxed_session(table(0))
    assert run([equal]).judgement.num_accepted_B.tolist() == [3]
    assert run([relaxed_session(table(1))]).judgement.num_accepted_B.tolist() == [0]
    disjoint = Session(
        torch.tensor([[0.0, -80.0, -200.0], [0.0, -80.0, -200.0]]),
        (1,),
        distributions_of([0.0, 0.0, 1.0]),
        GREEDY,
        rule=table(NUM_DISTANCE_BINS - 1),
    )
    assert run([disjoint]).judgement.num_accepted_B.tolist() == [1]


def test_a_table_draws_with_its_probability_under_a_seed_reproducibly():
    base = relaxed_session(by_table((0.5,) * NUM_DISTANCE_BINS))
    sessions = [
        Session(
            base.target_logits,
            base.block,
            base.distributions,
            SamplingTransform(temperature=0.0, seed=seed),
            rule=base.rule,
        )
        for seed in range(400)
    ]
    first, again = run(sessions, seeded(1)).judgement, run(sessions, seeded(2)).judgement
    assert torch.equal(first.num_accepted_B, again.num_accepted_B)
    share = (first.num_accepted_B > 0).float().mean().item()
    assert abs(share - 0.5) < 0.1  # four standard deviations; the seeds are fixed


def test_without_rows_nothing_is_relaxed():
    base = relaxed_session(within(1.0))
    session = Session(base.target_logits, base.block, None, GREEDY, rule=base.rule)
    assert run([session]).judgement.num_accepted_B.tolist() == [0]


def test_a_sampled_block_without_rows_is_refused():
    with pytest.raises(ValueError, match="without draft rows"):
        run([Session(logits_of(1, 2), (1,), None, SamplingTransform())])


# --------------------------------------------------------------------------- rejection sampling, by hand


def judge_by_hand(target, draft, block, uniforms, expo) -> tuple[int, int]:
    session_rows = distributions_of(*draft)
    blocks = BlockBatch.pack([block], [session_rows])
    chance = RandomNumbers(torch.tensor([uniforms]), torch.tensor([expo]), torch.zeros(1, len(block)))
    outcome = judge(
        torch.tensor([target]).log(),
        blocks,
        TransformBatch.build([SamplingTransform()], [3]),
        [AcceptanceRule()],
        chance,
    )
    return int(outcome.num_accepted_B), int(outcome.next_token_B)


@pytest.mark.parametrize(
    ("uniforms", "expo", "expected"),
    [
        # target / draft of token 0 is 0.2 / 0.8 = 1/4 ; the residual is (0, 0.4, 0.2)
        ([0.24, 0.0], [1.0, 1.0, 1.0], (2, 0)),  # both accepted; bonus from (0.5, 0.3, 0.2)
        ([0.24, 0.0], [9.0, 1.0, 1.0], (2, 1)),
        ([0.26, 0.0], [1e-9, 1.0, 1.0], (0, 1)),  # token 0 has no residual mass, for any noise
        ([0.26, 0.0], [1.0, 1.0, 0.4], (0, 2)),
        # second token: 0.9 / 0.6 is above 1, so always accepted
        ([0.0, 0.999], [1.0, 1.0, 1.0], (2, 0)),
    ],
)
def test_rejection_sampling_by_hand(uniforms, expo, expected):
    target = [[0.2, 0.5, 0.3], [0.05, 0.9, 0.05], [0.5, 0.3, 0.2]]
    draft = [[0.8, 0.1, 0.1], [0.2, 0.6, 0.2]]
    assert judge_by_hand(target, draft, (0, 1), uniforms, expo) == expected


def test_an_empty_residual_falls_back_to_the_target():
    # the draft probabilities cover the target's everywhere, yet u close to 1 rejects by rounding
    target, draft = [[0.25, 0.75], [0.5, 0.5]], [[0.25, 0.75]]
    assert judge_by_hand(target, draft, (0,), [2.0], [1.0, 1.0]) == (0, 1)


# --------------------------------------------------------------------------- the twin, batching, guards


def sampled_indices(sessions: list[Session]) -> dict[int, int]:
    sampled = [b for b, session in enumerate(sessions) if kind_of(session.transform) is Kind.SAMPLED]
    return {b: f for f, b in enumerate(sampled)}


@pytest.mark.parametrize("seed", range(8))
def test_batched_judging_equals_the_slow_twin(seed):
    rng, generator = random.Random(seed), seeded(seed)
    sessions = [random_session(rng, generator) for _ in range(60)]
    judged, sampled = run(sessions, generator), sampled_indices(sessions)
    for b, session in enumerate(sessions):
        got = of_batch(judged.judgement, b, session)
        expected = twin(judged, b, sampled.get(b), session)
        assert got.num_accepted == expected.num_accepted, session
        assert got.next_token == expected.next_token, session
        assert got.relaxed == expected.relaxed, session
        assert got.exact_ok == expected.exact_ok, session
        assert got.distortion == pytest.approx(expected.distortion, abs=2e-4), session
        if session.distributions is not None:
            assert got.distances == pytest.approx(expected.distances, abs=1e-3)


def test_the_random_batches_meet_every_outcome():
    # the test against the twin must meet all these cases
    rng, generator = random.Random(0), seeded(0)
    sessions = [random_session(rng, generator) for _ in range(300)]
    judgement = run(sessions, generator).judgement
    lens = torch.tensor([len(s.block) for s in sessions])
    assert {kind_of(s.transform) for s in sessions} == set(Kind)
    assert (judgement.num_accepted_B[lens > 0] == lens[lens > 0]).any()
    assert (judgement.num_accepted_B < lens).any()
    assert judgement.relaxed_BK.any()
    assert (lens == 0).any()


def test_a_greedy_or_seeded_session_is_judged_alone_as_in_a_batch():
    rng, generator = random.Random(9), seeded(9)
    sessions = [random_session(rng, generator) for _ in range(120)]
    judgement = run(sessions, generator).judgement
    for b, session in enumerate(sessions):
        drawn = session.rule.name == "adasd" and session.transform.seed is None
        if kind_of(session.transform) is not Kind.SAMPLED and not drawn:
            alone, together = of_batch(run([session]).judgement, 0, session), of_batch(judgement, b, session)
            assert alone.num_accepted == together.num_accepted
            assert alone.next_token == together.next_token


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_emitted_that_the_target_could_not_emit_itself(seed):
    rng, generator = random.Random(100 + seed), seeded(100 + seed)
    sessions = [random_session(rng, generator) for _ in range(150)]
    judged = run(sessions, generator)
    for b, session in enumerate(sessions):
        accepted = int(judged.judgement.num_accepted_B[b])
        emitted = [*session.block[:accepted], int(judged.judgement.next_token_B[b])]
        masked = judged.masked_BJV[b, : len(emitted)]
        assert (masked[range(len(emitted)), emitted] > -torch.inf).all()
        if not session.transform.greedy:
            probs = transformed_probs(
                masked, TransformBatch.build([session.transform] * len(emitted), [0] * len(emitted))
            )
            assert (probs[range(len(emitted)), emitted] > 0).all()


def test_flags_and_distances_are_blank_where_nothing_was_judged():
    session = relaxed_session(within(0.1, 1))
    judgement = run([session]).judgement
    assert judgement.relaxed_BK.tolist() == [[True, False, False]]
    assert judgement.distance_BK.isnan().tolist() == [[False, False, True]]


# --------------------------------------------------------------------------- invariance


def generate(
    target_table, draft_table, transform: SamplingTransform, num_tokens: int, block_lens
) -> list[int]:
    """Speculative decoding with two bigram tables; ``block_lens`` says how many tokens each round drafts."""
    tokens = [0]
    while len(tokens) <= num_tokens:
        block: list[int] = []
        for i in range(next(block_lens)):
            last = (tokens + block)[-1]
            token, _ = draft_block(draft_table[last, None], transform, len(tokens) + i, 0)
            block += token
        target = target_table[[tokens[-1], *block]]
        judgement = run([Session(target, tuple(block), None, transform, base_len=len(tokens))]).judgement
        tokens += [*block[: int(judgement.num_accepted_B)], int(judgement.next_token_B)]
    return tokens[1 : num_tokens + 1]


def lengths(seed: int, longest: int):
    rng = random.Random(seed)
    while True:
        yield rng.randint(0, longest)


@pytest.mark.parametrize(
    "transform", [SamplingTransform(temperature=0.9, top_p=0.95, seed=11), SamplingTransform(seed=12), GREEDY]
)
@pytest.mark.parametrize("noise", [0.0, 0.7, 8.0])
def test_seeded_and_greedy_output_does_not_depend_on_drafting(transform, noise):
    target = 2 * torch.randn(15, 15, generator=seeded(5))
    draft = target + noise * torch.randn(15, 15, generator=seeded(6))
    plain = generate(target, target, transform, 40, lengths(0, 0))
    for seed in range(3):
        assert generate(target, draft, transform, 40, lengths(seed, 1 + 3 * seed)) == plain
