"""Entropy and Jensen-Shannon distance against closed forms, SciPy and known bounds."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from adasd.specdec.distributions import truncate_row
from adasd.specdec.divergence import entropy, js_distance, js_distance_truncated


def random_probs(seed: int, num: int, vocab_size: int, zeros: float = 0.3) -> torch.Tensor:
    """Random probabilities in double precision; a share ``zeros`` of the tokens has none."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(num, vocab_size, generator=generator, dtype=torch.float64) ** 4
    weights *= torch.rand(num, vocab_size, generator=generator) > zeros
    weights[:, 0] += 1e-3
    return weights / weights.sum(-1, keepdim=True)


def test_entropy_of_a_uniform_distribution_is_the_logarithm_of_its_size():
    torch.testing.assert_close(entropy(torch.full((2, 3, 8), 1 / 8)), torch.full((2, 3), math.log(8)))


def test_entropy_of_a_point_mass_is_zero():
    assert entropy(torch.tensor([0.0, 1.0, 0.0])).item() == 0.0


def test_entropy_of_half_precision_is_computed_in_single():
    probs = torch.full((1, 65_536), 1 / 65_536, dtype=torch.bfloat16)
    assert entropy(probs).item() == pytest.approx(math.log(65_536), rel=1e-5)


def test_distance_of_equal_distributions_is_exactly_zero():
    probs = random_probs(0, 20, 50).float()
    assert js_distance(probs, probs.clone()).tolist() == [0.0] * 20


def test_distance_of_disjoint_distributions_is_one():
    assert js_distance(torch.tensor([0.5, 0.5, 0.0, 0.0]), torch.tensor([0.0, 0.0, 0.1, 0.9])).item() == 1.0


def test_distance_of_a_point_mass_to_a_coin():
    # m = (3/4, 1/4): H(m) - H(coin) / 2 = 0.811278 - 0.5 bits
    assert js_distance(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5])).item() == pytest.approx(
        math.sqrt(0.311278), abs=1e-6
    )


@pytest.mark.parametrize(("mass", "distance"), [(0.01, 0.071), (0.05, 0.160), (0.10, 0.228)])
def test_a_little_mass_on_a_forbidden_token_is_a_small_distance(mass, distance):
    # why the guard is needed: no usable threshold on the distance notices a forbidden token
    target = torch.tensor([0.6, 0.4, 0.0])
    draft = torch.tensor([0.6 * (1 - mass), 0.4 * (1 - mass), mass])
    assert js_distance(target, draft).item() == pytest.approx(distance, abs=1e-3)


def test_distance_agrees_with_scipy():
    target, draft = random_probs(1, 200, 40), random_probs(2, 200, 40)
    expected = jensenshannon(target.numpy(), draft.numpy(), base=2, axis=-1)
    np.testing.assert_allclose(js_distance(target, draft).numpy(), expected, atol=1e-9)
    np.testing.assert_allclose(js_distance(target.float(), draft.float()).numpy(), expected, atol=2e-6)


def test_distance_of_nearby_distributions_agrees_with_scipy():
    target = random_probs(3, 100, 40)
    draft = 0.9999 * target + 0.0001 * random_probs(4, 100, 40)
    expected = jensenshannon(target.numpy(), draft.numpy(), base=2, axis=-1)
    np.testing.assert_allclose(js_distance(target, draft).numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(js_distance(target.float(), draft.float()).numpy(), expected, atol=1e-5)


@settings(max_examples=200)
@given(st.lists(st.tuples(*[st.floats(0, 1)] * 3), min_size=2, max_size=12))
def test_distance_is_a_metric_between_zero_and_one(weights):
    first, second, third = (
        torch.tensor(column, dtype=torch.float64) + 0.0 for column in zip(*weights, strict=True)
    )
    if min(first.sum(), second.sum(), third.sum()) < 1e-6:
        return
    first, second, third = (probs / probs.sum() for probs in (first, second, third))
    there, back = js_distance(first, second), js_distance(second, first)
    assert 0.0 <= there <= 1.0
    assert there.item() == pytest.approx(back.item(), abs=1e-12)
    assert there <= js_distance(first, third) + js_distance(third, second) + 1e-7


def test_distance_bounds_the_total_variation():
    # 1 - h_b((1 - TV) / 2) <= d^2 <= TV, in bits
    target, draft = random_probs(5, 500, 12), random_probs(6, 500, 12)
    squared, tv = js_distance(target, draft) ** 2, (target - draft).abs().sum(-1) / 2
    half = (1 - tv) / 2
    binary = (torch.special.entr(half) + torch.special.entr(1 - half)) / math.log(2)
    assert (1 - binary <= squared + 1e-9).all()
    assert (squared <= tv + 1e-9).all()


def truncated(draft_probs: torch.Tensor, row_len: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids, logprobs = truncate_row(draft_probs.log(), row_len)
    return ids, logprobs


def test_a_row_with_all_tokens_gives_the_full_distance():
    target, draft = random_probs(7, 100, 30).float(), random_probs(8, 100, 30).float()
    got = js_distance_truncated(target, *truncated(draft, 30))
    torch.testing.assert_close(got, js_distance(target, draft), atol=1e-5, rtol=0)


@pytest.mark.parametrize("row_len", [1, 4, 12])
def test_a_truncated_row_underestimates_within_the_stated_bound(row_len):
    target, draft = random_probs(9, 300, 30), random_probs(10, 300, 30)
    ids, logprobs = truncated(draft, row_len)
    bucket = js_distance_truncated(target, ids, logprobs) ** 2
    full = js_distance(target, draft) ** 2
    target_tail = 1 - target.gather(-1, ids.long()).sum(-1)
    draft_tail = (1 - logprobs.double().exp().sum(-1)).clamp_min(0)
    mean = (target_tail + draft_tail) / 2
    share = (target_tail / (2 * mean).clamp_min(1e-300)).clamp(0, 1)
    gap = mean * (torch.special.entr(share) + torch.special.entr(1 - share)) / math.log(2)
    assert (bucket <= full + 1e-6).all()
    assert (full <= bucket + gap + 1e-6).all()


def test_padding_of_a_row_changes_nothing():
    target, draft = random_probs(11, 20, 30).float(), random_probs(12, 20, 30).float()
    ids, logprobs = truncated(draft, 6)
    # also up to the vocabulary's size, where a truncated distribution looks complete
    for extra in (3, 24, 40):
        padded_ids = torch.cat([ids, torch.zeros(20, extra, dtype=torch.int32)], dim=1)
        padded = torch.cat([logprobs, torch.full((20, extra), -torch.inf)], dim=1)
        expected = js_distance_truncated(target, ids, logprobs)
        torch.testing.assert_close(js_distance_truncated(target, padded_ids, padded), expected)
