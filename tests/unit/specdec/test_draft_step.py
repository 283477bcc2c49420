"""One drafted token per session: the choice, the signals and the top-k distribution."""

import math

import pytest
import torch

from adasd.rounds import SamplingTransform, StopRule
from adasd.specdec import verify_reference
from adasd.specdec.distributions import TransformBatch, transformed_probs, truncate_row
from adasd.specdec.draft_step import check_draft, propose
from adasd.specdec.noise import coupled_argmax
from tests.unit.specdec.sessions import seeded

LOGITS = 2 * torch.randn(6, 40, generator=seeded(0))


def test_greedy_drafts_the_largest_logit_without_a_row():
    proposal = propose(
        LOGITS, TransformBatch.build([SamplingTransform(temperature=0.0)] * 6, range(6)), [0] * 6
    )
    assert torch.equal(proposal.tokens_N, LOGITS.argmax(-1))
    assert proposal.top_ids_NR is None
    assert proposal.top_logprobs_NR is None


def test_a_seeded_session_drafts_the_coupled_choice_of_its_full_distribution():
    transforms = [SamplingTransform(temperature=0.8, top_k=20, seed=seed) for seed in range(6)]
    batch = TransformBatch.build(transforms, [9] * 6)
    expected = coupled_argmax(transformed_probs(LOGITS, batch), batch.seed_N, batch.position_N)
    assert torch.equal(propose(LOGITS, batch, [0] * 6).tokens_N, expected)
    assert torch.equal(propose(LOGITS, batch, [2] * 6).tokens_N, expected)


def test_an_unseeded_session_draws_from_its_own_row_only():
    batch = TransformBatch.build([SamplingTransform()] * 6, [0] * 6)
    generator, row_lens = seeded(1), [3, 1, 40, 2, 3, 5]
    for _ in range(50):
        proposal = propose(LOGITS, batch, row_lens, generator)
        for row, row_len in enumerate(row_lens):
            assert proposal.tokens_N[row] in proposal.top_ids_NR[row, :row_len]
            assert (proposal.top_logprobs_NR[row, row_len:] == -math.inf).all()
            ids, logprobs = truncate_row(LOGITS[row, None], row_len)
            assert torch.equal(proposal.top_ids_NR[row, :row_len], ids[0])
            torch.testing.assert_close(proposal.top_logprobs_NR[row, :row_len], logprobs[0])


def test_signals_are_those_of_the_masked_distribution_at_temperature_one():
    batch = TransformBatch.build([SamplingTransform(temperature=0.2, top_k=2, seed=1)], [0])
    proposal = propose(torch.tensor([[0.5, 0.25, 0.25, 0.0]]).log(), batch, [0])
    assert proposal.entropies_N.item() == pytest.approx(1.5 * math.log(2))
    assert proposal.max_probs_N.item() == pytest.approx(0.5)


def test_kinds_mix_in_one_batch():
    transforms = [
        SamplingTransform(temperature=0.0),
        SamplingTransform(seed=4),
        SamplingTransform(),
        SamplingTransform(temperature=0.0),
        SamplingTransform(seed=5),
        SamplingTransform(),
    ]
    batch, row_lens = TransformBatch.build(transforms, range(6)), [0, 0, 8, 8, 8, 8]
    together = propose(LOGITS, batch, row_lens, seeded(2))
    for row in (0, 1, 3, 4):
        alone = propose(LOGITS[row, None], batch.select([row]), [row_lens[row]])
        assert together.tokens_N[row] == alone.tokens_N[0]
    assert together.tokens_N[2] in together.top_ids_NR[2]


def second_by_definition(masked, transform, position, row_len, token):
    """The runner-up by its definition, for one session, in plain Python."""
    if masked.isneginf().sum() >= len(masked) - 1:
        return {token}
    rest = [-math.inf if t == token else logit for t, logit in enumerate(masked.tolist())]
    if not transform.greedy:
        ids, logprobs = truncate_row(masked[None], row_len or len(masked))
        probs = verify_reference.spread(
            ids[0].tolist(), verify_reference.sampling_probs(logprobs[0].tolist(), transform), len(masked)
        )
        probs[token] = 0.0
        if transform.seed is not None and any(probs):
            return {verify_reference.coupled_choice(probs, transform.seed, position)}
        if any(probs):
            rest = probs
    return {t for t, score in enumerate(rest) if score == max(rest)}


@pytest.mark.parametrize("num_kinds", [1, 3])
def test_second_choices_follow_their_definition_and_change_nothing(num_kinds):
    kinds = [
        (SamplingTransform(temperature=0.0), 0),
        (SamplingTransform(temperature=0.7, seed=4), 0),
        (SamplingTransform(temperature=1.3, top_p=0.8), 5),
        (SamplingTransform(temperature=0.0, top_k=1), 3),
        (SamplingTransform(seed=9, top_k=1), 0),
        (SamplingTransform(top_k=1), 1),
        (SamplingTransform(min_p=0.3), 40),
        (SamplingTransform(temperature=0.5, top_k=4, seed=2), 0),
    ]
    logits = 2 * torch.randn(8, 40, generator=seeded(3))
    logits[::2] = logits[::2].round()  # with ties
    one_left, two_left = torch.full((2, 8, 40), -torch.inf)
    one_left[:, 7], two_left[:, 7:9] = 1.0, torch.tensor([1.0, 0.5])
    for masked in (logits, one_left, two_left):
        for start in range(0, len(kinds), num_kinds):
            transforms, row_lens = zip(*(kinds * 2)[start : start + num_kinds], strict=True)
            batch, rows = TransformBatch.build(transforms, range(num_kinds)), masked[:num_kinds]
            plain = propose(rows, batch, row_lens, seeded(start))
            asked = propose(rows, batch, row_lens, seeded(start), want_runner_ups=True)
            assert plain.runner_ups_N is None
            assert torch.equal(plain.tokens_N, asked.tokens_N)
            assert torch.equal(plain.entropies_N, asked.entropies_N)
            assert asked.runner_ups_N.dtype == torch.int64
            for n, (token, other) in enumerate(
                zip(asked.tokens_N.tolist(), asked.runner_ups_N.tolist(), strict=True)
            ):
                assert other in second_by_definition(rows[n], transforms[n], n, row_lens[n], token)
                assert (other == token) == (masked is one_left)


def test_sampling_without_seed_and_row_is_refused():
    with pytest.raises(ValueError, match="row_len is 0"):
        propose(LOGITS[:1], TransformBatch.build([SamplingTransform()], [0]), [0])
    with pytest.raises(ValueError, match="row_len is 0"):
        check_draft(SamplingTransform(), StopRule(max_tokens=4))


@pytest.mark.parametrize(
    ("transform", "rule"),
    [
        (SamplingTransform(), StopRule(max_tokens=4, row_len=8)),
        (SamplingTransform(), StopRule(max_tokens=0)),
        (SamplingTransform(seed=1), StopRule(max_tokens=4)),
        (SamplingTransform(temperature=0.0), StopRule(max_tokens=4)),
    ],
)
def test_other_drafts_need_no_row(transform, rule):
    check_draft(transform, rule)
