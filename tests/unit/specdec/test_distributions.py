"""The sampling transform against transformers' own warpers, and the properties that both sides rely on."""

import random

import pytest
import torch
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from adasd.rounds import SamplingTransform
from adasd.specdec.distributions import (
    Kind,
    TransformBatch,
    masked_block_logits,
    masked_logits,
    top_k_probs,
    transformed_probs,
    truncate_row,
)
from tests.unit.specdec.sessions import random_transform, seeded


def probs(logits, *transforms, positions=None):
    return transformed_probs(logits, TransformBatch.build(transforms, positions or [0] * len(transforms)))


def transformers_probs(logits, transform):
    warpers = [TemperatureLogitsWarper(transform.temperature)]
    if transform.top_k:
        warpers.append(TopKLogitsWarper(transform.top_k))
    if transform.top_p < 1.0:
        warpers.append(TopPLogitsWarper(transform.top_p))
    if transform.min_p > 0.0:
        warpers.append(MinPLogitsWarper(transform.min_p))
    for warper in warpers:
        logits = warper(None, logits)
    return torch.softmax(logits, dim=-1)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.8])
@pytest.mark.parametrize("top_k", [0, 1, 7, 200])
@pytest.mark.parametrize("top_p", [1.0, 0.05, 0.8])
@pytest.mark.parametrize("min_p", [0.0, 0.1, 1.0])
def test_the_probabilities_are_those_of_transformers_warpers_in_this_order(temperature, top_k, top_p, min_p):
    transform = SamplingTransform(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    logits = 3 * torch.randn(6, 97, generator=seeded(1))
    expected = transformers_probs(logits, transform)
    got = probs(logits, *[transform] * 6)
    torch.testing.assert_close(got, expected)
    assert torch.equal(got > 0, expected > 0)


def test_order_matters_top_p_counts_what_top_k_left():
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    # after top-k 2 the probabilities are (4/7, 3/7): the first alone exceeds 0.55; before top-k it takes two
    assert probs(logits, SamplingTransform(top_k=2, top_p=0.55)).tolist() == [[1.0, 0.0, 0.0, 0.0]]


def test_temperature_comes_before_top_p():
    logits = torch.tensor([[0.6, 0.3, 0.1]]).log()
    # at temperature 1/2 the probabilities are (36, 9, 1) / 46: the first token alone holds 0.78
    assert probs(logits, SamplingTransform(temperature=0.5, top_p=0.75)).tolist() == [[1.0, 0.0, 0.0]]


def test_a_row_does_not_depend_on_its_neighbours():
    rng = random.Random(2)
    transforms = [random_transform(rng, 5, 50) for _ in range(40)]
    logits = 2 * torch.randn(40, 50, generator=seeded(2))
    together = probs(logits, *transforms)
    for row, transform in enumerate(transforms):
        assert torch.equal(together[row], probs(logits[row, None], transform)[0])


def test_a_plain_row_keeps_its_tail_beside_a_nucleus_row():
    logits = torch.tensor([[0.0] + [-17.0] * 200] * 2)
    assert (probs(logits, SamplingTransform(), SamplingTransform(top_p=0.9))[0] > 0).all()


def test_greedy_is_a_point_mass_on_the_first_largest_logit():
    logits = torch.tensor([[1.0, 3.0, 3.0, 2.0]])
    assert probs(logits, SamplingTransform(temperature=0.0, top_k=2)).tolist() == [[0.0, 1.0, 0.0, 0.0]]
    mixed = probs(logits.expand(2, -1), SamplingTransform(), SamplingTransform(temperature=0.0))
    assert mixed[1].tolist() == [0.0, 1.0, 0.0, 0.0]
    torch.testing.assert_close(mixed[0], torch.softmax(logits[0], -1))


def test_ties_with_the_smallest_kept_logit_stay():
    logits = torch.tensor([[0.0, 2.0, 2.0, 2.0, 1.0]])
    assert (probs(logits, SamplingTransform(top_k=2)) > 0).tolist() == [[False, True, True, True, False]]
    assert (probs(logits, SamplingTransform(top_p=0.2)) > 0).tolist() == [[False, True, True, True, False]]


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-45])
def test_a_tiny_temperature_is_nearly_greedy_and_stays_finite(temperature):
    logits = torch.tensor([[900.0, 1000.0, -torch.inf, 999.0]])
    assert probs(logits, SamplingTransform(temperature=temperature)).tolist() == [[0.0, 1.0, 0.0, 0.0]]


def test_masks_add_bias_and_forbid_the_end_before_its_position():
    transform = SamplingTransform(logit_bias=((1, 2.5), (3, -1.0), (99, 5.0)), eos_ids=(0, 88), eos_from=10)
    logits = torch.zeros(2, 4)
    masked = masked_logits(logits, [transform, transform], [9, 10])
    assert masked.tolist() == [[-torch.inf, 2.5, 0.0, -1.0], [0.0, 2.5, 0.0, -1.0]]
    assert logits.tolist() == [[0.0] * 4] * 2


def test_bias_cannot_bring_a_forbidden_end_back():
    transform = SamplingTransform(logit_bias=((0, 100.0),), eos_ids=(0,), eos_from=5)
    assert masked_logits(torch.zeros(1, 3), [transform], [4])[0, 0] == -torch.inf


def test_nothing_to_mask_copies_nothing():
    logits = torch.zeros(1, 4)
    assert masked_logits(logits, [SamplingTransform(eos_ids=(0,), eos_from=3)], [3]) is logits
    assert masked_logits(logits.bfloat16(), [SamplingTransform()], [0]).dtype is torch.float32


def test_masks_of_a_block_advance_position_by_position():
    transforms = [SamplingTransform(eos_ids=(1,), eos_from=6), SamplingTransform(eos_ids=(2,), eos_from=100)]
    masked = masked_block_logits(torch.zeros(2, 3, 4), transforms, [4, 4])
    assert (masked[0] == -torch.inf).nonzero().tolist() == [[0, 1], [1, 1]]
    assert (masked[1] == -torch.inf).nonzero().tolist() == [[0, 2], [1, 2], [2, 2]]


def test_a_row_holds_the_likeliest_tokens_with_their_full_probabilities():
    logits = torch.tensor([[0.1, 0.4, 0.1, 0.2, 0.2]]).log()
    ids, logprobs = truncate_row(logits, 4)
    assert ids.dtype is torch.int32
    assert ids[0, :3].tolist() == [1, 3, 4]
    assert logprobs.exp()[0].tolist() == pytest.approx([0.4, 0.2, 0.2, 0.1])


def test_a_row_is_at_temperature_one_and_never_longer_than_the_vocabulary():
    logits = torch.randn(3, 11, generator=seeded(3))
    ids, logprobs = truncate_row(logits, 100)
    expected = torch.log_softmax(logits, -1).gather(-1, ids.long())
    torch.testing.assert_close(logprobs, expected)
    assert ids.shape == (3, 11)


def test_a_full_top_k_distribution_is_the_full_distribution():
    rng = random.Random(4)
    transforms = [random_transform(rng, 5, 30) for _ in range(50)]
    logits = 2 * torch.randn(50, 30, generator=seeded(4))
    batch = TransformBatch.build(transforms, [0] * 50)
    ids, logprobs = truncate_row(logits, 30)
    spread = torch.zeros(50, 30).scatter(-1, ids.long(), top_k_probs(logprobs, batch))
    torch.testing.assert_close(spread, transformed_probs(logits, batch))


def test_a_top_k_distribution_sums_to_one_and_skips_padding():
    logprobs = torch.tensor([[0.5, 0.25, 0.0, 0.0]]).log()
    assert top_k_probs(logprobs, TransformBatch.build([SamplingTransform()], [0])).tolist() == [
        pytest.approx([2 / 3, 1 / 3, 0.0, 0.0])
    ]


def test_kinds_and_seeds():
    transforms = [
        SamplingTransform(seed=2**64 - 1),
        SamplingTransform(temperature=0.0, seed=3),
        SamplingTransform(),
        SamplingTransform(seed=0),
        SamplingTransform(seed=-1),
    ]
    batch = TransformBatch.build(transforms, [5, 6, 7, 8, 9])
    assert batch.kinds == (Kind.COUPLED, Kind.GREEDY, Kind.SAMPLED, Kind.COUPLED, Kind.COUPLED)
    assert batch.seed_N.tolist() == [-1, 3, 0, 0, -1]
    assert batch.indices_of(Kind.COUPLED, Kind.SAMPLED) == [0, 2, 3, 4]
    assert batch.select([3, 0]).position_N.tolist() == [8, 5]
    assert batch.select([1]).expand(3).position_N.tolist() == [6, 7, 8]
    assert batch.expand(2).kinds[:4] == (Kind.COUPLED, Kind.COUPLED, Kind.GREEDY, Kind.GREEDY)
