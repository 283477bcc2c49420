"""Block verification: by hand, its distribution by enumeration over three positions, its gain, and planted bugs."""

import itertools

import pytest
import torch
from torch import Tensor

from adasd.errors import InvalidRequest
from adasd.rounds import BLOCK, AcceptanceRule, SamplingTransform
from adasd.specdec import block_verification
from adasd.specdec.block_verification import num_kept, prefix_weights
from adasd.specdec.blocks import check_block

V = 3


def a_pair(seed: int, spread: float) -> tuple[Tensor, Tensor]:
    """Target and draft probabilities after each token, [V, V] each, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(2, V, V, generator=generator, dtype=torch.float64)
    return tuple(torch.softmax(logits, dim=-1))  # type: ignore[return-value]


def chances(block: tuple[int, ...], p: Tensor, q: Tensor) -> list[float]:
    """h_1 .. h_K of the implemented rule, by bisection: the share of uniform numbers that it accepts."""
    before = torch.tensor([0, *block[:-1]])
    at = torch.arange(len(block))
    tokens = torch.tensor(block)
    weights = prefix_weights(p[before][at, tokens][None], q[before][at, tokens][None])
    found = []
    for i in range(len(block)):
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            uniform = torch.ones(1, len(block), dtype=torch.float64)
            uniform[0, i] = middle
            kept = num_kept(weights, p[before][None], q[before][None], torch.tensor([len(block)]), uniform)
            low, high = (middle, high) if int(kept) == i + 1 else (low, middle)
        found.append(low)
    return found


def emitted_distribution(p: Tensor, q: Tensor, stops: dict[tuple[int, ...], bool]) -> tuple[Tensor, float]:
    """(joint probabilities of three tokens after token 0, mean number accepted); ``stops`` tells where blocks end.

    Shorter answers are completed by the target.
    """
    emitted, mean = torch.zeros(V, V, V, dtype=torch.float64), 0.0
    for block in itertools.chain.from_iterable(itertools.product(range(V), repeat=k) for k in (1, 2)):
        ends = len(block) == 2 or stops[block]
        if not ends or (len(block) == 2 and stops[block[:1]]):
            continue
        reach = float(torch.stack([q[b, x] for b, x in zip((0, *block), block, strict=False)]).prod())
        weights = [1.0]
        for b, x in zip((0, *block), block, strict=False):
            weights.append(min(1.0, weights[-1] * float(p[b, x] / q[b, x])))
        kept = chances(block, p, q)
        left = reach
        for tau in range(len(block), -1, -1):
            share = left * kept[tau - 1] if tau else left
            left -= share
            last = (0, *block)[tau]
            residual = (weights[tau] * p[last] - q[last]).clamp_min(0) if tau < len(block) else p[last]
            residual = residual / residual.sum() if residual.sum() > 0 else p[last]
            mean += share * tau
            if tau == 0:
                emitted += share * residual[:, None, None] * p[:, :, None] * p[None]
            elif tau == 1:
                emitted[block[0]] += share * residual[:, None] * p
            else:
                emitted[block] += share * residual
    return emitted, mean


def target_distribution(p: Tensor) -> Tensor:
    return p[0][:, None, None] * p[:, :, None] * p[None]


STOPS = [
    {(x,): stop for x, stop in enumerate(pattern)} for pattern in itertools.product([False, True], repeat=V)
]


@pytest.mark.parametrize("spread", [0.5, 2.0])
@pytest.mark.parametrize("seed", range(4))
def test_the_distribution_of_three_tokens_is_the_targets_wherever_the_draft_stops(seed, spread):
    p, q = a_pair(seed, spread)
    for stops in STOPS:
        emitted, _ = emitted_distribution(p, q, stops)
        assert (emitted - target_distribution(p)).abs().max() < 1e-9


@pytest.mark.parametrize("seed", range(4))
def test_it_accepts_at_least_as_many_tokens_as_rejection_sampling(seed):
    p, q = a_pair(seed, 1.0)
    _, by_block = emitted_distribution(p, q, STOPS[0])
    first = torch.minimum(p[0], q[0])
    by_token = float(first.sum() + (first * torch.minimum(p, q).sum(dim=-1)).sum())
    assert by_block > by_token + 1e-6


@pytest.mark.parametrize(
    "bug",
    [
        lambda target, draft: honest(target, draft).square(),
        lambda target, draft: honest(draft, target),
        lambda target, draft: torch.nn.functional.pad((target / draft).cumprod(1), (1, 0), value=1.0),
    ],
    ids=["squared", "swapped", "not capped"],
)
def test_a_planted_bug_changes_the_distribution(bug, monkeypatch):
    monkeypatch.setitem(globals(), "prefix_weights", bug)
    p, q = a_pair(0, 1.0)
    emitted, _ = emitted_distribution(p, q, STOPS[0])
    assert (emitted - target_distribution(p)).abs().max() > 1e-4


honest = block_verification.prefix_weights


def test_the_look_alike_with_products_of_uniform_numbers_is_another_rule():
    """Largest k with prod min(1, p/q) >= prod u: p = (.1, .9), q = (.9, .1), then p = q, gives .32 for .10."""
    ratio = 1 / 9
    # token 0 (chance .9): the second position's ratio is 1, so both are accepted iff u1 u2 <= 1/9
    both = 0.9 * (ratio - ratio * torch.log(torch.tensor(ratio)).item())
    one_only = 0.0  # u1 <= 1/9 implies u1 u2 <= 1/9
    assert both + one_only == pytest.approx(0.32, abs=0.005)
    p = torch.tensor([[0.1, 0.9, 0.0], [0.5, 0.5, 0.0], [0.5, 0.5, 0.0]], dtype=torch.float64)
    q = torch.tensor([[0.9, 0.1, 0.0], [0.5, 0.5, 0.0], [0.5, 0.5, 0.0]], dtype=torch.float64)
    q[0] += torch.tensor([-1e-12, 0, 1e-12])
    weights = prefix_weights(p[[0, 0]][:, 0][None], q[[0, 0]][:, 0][None])
    assert weights[0, 1].item() == pytest.approx(ratio)


@pytest.mark.parametrize("transform", [SamplingTransform(temperature=0.0), SamplingTransform(seed=3)])
def test_it_is_refused_where_tokens_are_matched(transform):
    with pytest.raises(InvalidRequest, match="rejection sampling"):
        check_block(transform, (1,), None, AcceptanceRule(BLOCK), 5)
