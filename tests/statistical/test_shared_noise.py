"""The shared noise: its distribution, that of the tokens it picks, and how often draft and target agree.

Bounds are the 1e-4 points of each test's distribution; seeds are fixed.
"""

import numpy as np
import pytest
import torch
from scipy.stats import chi2, kstest

from adasd.rounds import SamplingTransform
from adasd.specdec.distributions import TransformBatch, transformed_probs
from adasd.specdec.noise import coupled_argmax, exponential_noise

DRAWS = 100_000
SEEDS = torch.full((DRAWS,), 0x0123_4567_89AB_CDEF)
POSITIONS = torch.arange(DRAWS)


def test_noise_is_exponential():
    noise = exponential_noise(SEEDS[:20_000], POSITIONS[:20_000], 5).double().numpy()
    assert kstest(noise.ravel(), "expon").pvalue > 1e-4


@pytest.mark.parametrize("vary", ["positions", "seeds"])
def test_neighbouring_counters_are_uncorrelated(vary):
    steps = torch.arange(20_000)
    fixed = torch.full_like(steps, 7)
    seeds, positions = (fixed, steps) if vary == "positions" else (steps, fixed)
    noise = exponential_noise(seeds, positions, 8).double().numpy()
    lag = np.corrcoef(noise[:-1].ravel(), noise[1:].ravel())[0, 1]
    across = np.corrcoef(noise[:, :-1].ravel(), noise[:, 1:].ravel())[0, 1]
    assert max(abs(lag), abs(across)) < 3.9 / np.sqrt(noise.size * 7 / 8)


@pytest.mark.parametrize(
    "transform",
    [
        SamplingTransform(seed=1),
        SamplingTransform(temperature=0.7, top_k=4, seed=1),
        SamplingTransform(top_p=0.8, seed=1),
    ],
)
def test_the_race_follows_the_probabilities(transform):
    logits = torch.tensor([[1.0, 0.5, 0.0, -0.5, 0.3, -1.0]])
    probs = transformed_probs(logits, TransformBatch.build([transform], [0]))[0]
    winners = coupled_argmax(probs.expand(DRAWS, -1), SEEDS, POSITIONS)
    counts, possible = torch.bincount(winners, minlength=6).double(), probs > 0
    assert counts[~possible].sum() == 0
    expected = DRAWS * probs[possible].double()
    statistic = ((counts[possible] - expected) ** 2 / expected).sum().item()
    assert statistic < chi2.isf(1e-4, int(possible.sum()) - 1)


def match_probability(target: torch.Tensor, draft: torch.Tensor) -> float:
    """M = sum over x of 1 / sum over y of max(p_y / p_x, q_y / q_x)."""
    total = 0.0
    for p, q in zip(target.tolist(), draft.tolist(), strict=True):
        if p > 0 and q > 0:
            total += 1 / torch.maximum(target / p, draft / q).sum().item()
    return total


@pytest.mark.parametrize(
    ("target", "draft"),
    [
        ([0.7, 0.3], [0.4, 0.6]),
        ([0.5, 0.3, 0.1, 0.1, 0.0], [0.2, 0.4, 0.3, 0.0, 0.1]),
        ([0.25, 0.25, 0.25, 0.25, 0.0, 0.0], [0.0, 0.0, 0.25, 0.25, 0.25, 0.25]),
    ],
)
def test_draft_and_target_agree_as_often_as_the_formula_says(target, draft):
    p, q = torch.tensor(target), torch.tensor(draft)
    same = coupled_argmax(p.expand(DRAWS, -1), SEEDS, POSITIONS) == coupled_argmax(
        q.expand(DRAWS, -1), SEEDS, POSITIONS
    )
    expected, variation = match_probability(p, q), (p - q).abs().sum().item() / 2
    assert (1 - variation) / (1 + variation) - 1e-6 <= expected <= 1 - variation + 1e-6
    deviation = (expected * (1 - expected) / DRAWS) ** 0.5
    assert abs(same.float().mean().item() - expected) < 3.9 * deviation
