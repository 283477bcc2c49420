"""The distribution of tokens emitted without a seed: by exact enumeration, and by chi-squared tests on draws.

Each chi-squared bound is the upper 1e-4 point, so a correct rule fails such a test for 1 seed in 10,000; seeds
are fixed. ``test_a_wrong_distribution_is_noticed`` shows that the bounds can be missed.
"""

import itertools
from dataclasses import dataclass

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from adasd.rounds import AcceptanceRule, SamplingTransform
from adasd.specdec.blocks import BlockBatch
from adasd.specdec.distributions import TransformBatch, top_k_probs, transformed_probs, truncate_row
from adasd.specdec.draft_step import propose
from adasd.specdec.exact_tests import RejectionSampling
from adasd.specdec.verify import Judgement, draw_random_numbers, judge

DRAWS = 30_000
WARPS = [
    SamplingTransform(),
    SamplingTransform(temperature=0.7, top_k=4),
    SamplingTransform(top_p=0.8),
    SamplingTransform(temperature=1.5, min_p=0.15),
]
V = 6


@dataclass(frozen=True)
class Bigrams:
    """A language model whose next token depends on the last token only: logits [V, V]."""

    logits_VV: Tensor

    @classmethod
    def random(cls, seed: int, spread: float = 1.2) -> "Bigrams":
        return cls(spread * torch.randn(V, V, generator=torch.Generator().manual_seed(seed)))

    def after(self, tokens: Tensor) -> Tensor:
        return self.logits_VV[tokens]


TARGET, DRAFT = Bigrams.random(1), Bigrams.random(2)


def rejects(counts: Tensor, probs: Tensor) -> bool:
    """Pearson's chi-squared test at the upper 1e-4 point; a count where the probability is 0 rejects at once."""
    possible = probs > 0
    if counts[~possible].sum() > 0:
        return True
    expected = counts.sum() * probs[possible]
    statistic = ((counts[possible] - expected) ** 2 / expected).sum().item()
    return statistic > chi2.isf(1e-4, int(possible.sum()) - 1)


def target_probs(transform: SamplingTransform) -> Tensor:
    """The target probabilities after each token, [V, V]."""
    return transformed_probs(TARGET.logits_VV, TransformBatch.build([transform] * V, [0] * V))


def one_round(
    transform: SamplingTransform, num_drafted: int, row_len: int, seed: int, rule: AcceptanceRule
) -> tuple[Tensor, Judgement]:
    """DRAWS independent sessions after token 0: the emitted tokens, [DRAWS, K + 1], -1 after the end."""
    generator = torch.Generator().manual_seed(seed)
    batch = TransformBatch.build([transform] * DRAWS, [0] * DRAWS)
    last, tokens, ids, logprobs = torch.zeros(DRAWS, dtype=torch.int64), [], [], []
    for _ in range(num_drafted):
        step = propose(DRAFT.after(last), batch, [row_len] * DRAWS, generator)
        assert step.top_ids_NR is not None
        assert step.top_logprobs_NR is not None
        last = step.tokens_N
        tokens.append(last)
        ids.append(step.top_ids_NR.long())
        logprobs.append(step.top_logprobs_NR)
    tokens_BK = torch.stack(tokens, dim=1)
    lens = (num_drafted,) * DRAWS
    blocks = BlockBatch(
        lens, (True,) * DRAWS, tokens_BK, torch.tensor(lens), torch.stack(ids, 1), torch.stack(logprobs, 1)
    )
    before_BJ = torch.cat([torch.zeros(DRAWS, 1, dtype=torch.int64), tokens_BK], dim=1)
    rules = [rule] * DRAWS
    chance = draw_random_numbers(batch, rules, num_drafted, V, generator)
    judgement = judge(TARGET.after(before_BJ), blocks, batch, rules, chance)
    accepted_B1 = judgement.num_accepted_B[:, None]
    emitted = torch.cat([tokens_BK, torch.zeros(DRAWS, 1, dtype=torch.int64)], dim=1)
    emitted.scatter_(1, accepted_B1, judgement.next_token_B[:, None])
    return emitted.masked_fill(torch.arange(num_drafted + 1) > accepted_B1, -1), judgement


@pytest.mark.parametrize("row_len", [1, 3, V])
@pytest.mark.parametrize("transform", WARPS)
def test_the_first_token_follows_the_target(transform, row_len):
    emitted, _ = one_round(transform, 1, row_len, seed=row_len, rule=AcceptanceRule())
    assert not rejects(
        torch.bincount(emitted[:, 0], minlength=V).double(), target_probs(transform)[0].double()
    )


@pytest.mark.parametrize("transform", WARPS)
def test_the_first_two_tokens_follow_the_target_jointly(transform):
    # a session that stopped after one token is completed by the target itself
    emitted, judgement = one_round(transform, 2, 4, seed=7, rule=AcceptanceRule())
    probs = target_probs(transform)
    generator = torch.Generator().manual_seed(8)
    completion = torch.multinomial(probs[emitted[:, 0]], 1, generator=generator)[:, 0]
    second = torch.where(emitted[:, 1] >= 0, emitted[:, 1], completion)
    counts = torch.bincount(emitted[:, 0] * V + second, minlength=V * V).double()
    joint = (probs[0, :, None] * probs).flatten().double()
    assert not rejects(counts, joint / joint.sum())
    assert 0 < (judgement.num_accepted_B == 0).sum() < DRAWS


def test_the_bonus_token_follows_the_target():
    emitted, judgement = one_round(SamplingTransform(), 1, V, seed=9, rule=AcceptanceRule())
    probs = target_probs(SamplingTransform())
    for last in range(V):
        after = emitted[(judgement.num_accepted_B == 1) & (emitted[:, 0] == last), 1]
        assert not rejects(torch.bincount(after, minlength=V).double(), probs[last].double())


def test_acceptance_is_one_minus_the_total_variation():
    _, judgement = one_round(SamplingTransform(), 1, V, seed=10, rule=AcceptanceRule())
    expected = (
        torch.minimum(target_probs(SamplingTransform())[0], torch.softmax(DRAFT.logits_VV[0], -1))
        .sum()
        .item()
    )
    share = judgement.num_accepted_B.float().mean().item()
    deviation = (expected * (1 - expected) / DRAWS) ** 0.5
    assert abs(share - expected) < 3.9 * deviation  # two-sided 1e-4


def test_a_wrong_distribution_is_noticed():
    emitted, _ = one_round(SamplingTransform(), 1, V, seed=11, rule=AcceptanceRule())
    counts = torch.bincount(emitted[:, 0], minlength=V).double()
    slightly_off = target_probs(SamplingTransform(temperature=0.9))[0].double()
    assert rejects(counts, slightly_off)


def test_relaxing_everything_moves_mass_only_where_the_target_has_some(monkeypatch):
    # By hand: p = (.5, .3, .2, 0), q = (.2, .3, .3, .2), always relax -> (.4, .3, .3, 0)
    pad = [1e-30, 1e-30]
    target = Bigrams(torch.tensor([[0.5, 0.3, 0.2, 0.0, 0.0, 0.0]] * V).log())
    draft = Bigrams(torch.tensor([[0.2, 0.3, 0.3, 0.2, *pad]] * V).log())
    monkeypatch.setitem(globals(), "TARGET", target)
    monkeypatch.setitem(globals(), "DRAFT", draft)
    emitted, judgement = one_round(
        SamplingTransform(), 1, V, 12, AcceptanceRule("fsd", {"max_distance": 1.0}, 1)
    )
    counts = torch.bincount(emitted[:, 0], minlength=V).double()
    assert not rejects(counts, torch.tensor([0.4, 0.3, 0.3, 0.0, 0.0, 0.0]).double())
    assert abs(judgement.num_accepted_B.float().mean().item() - 0.8) < 3.9 * (0.16 / DRAWS) ** 0.5


def five_tokens(monkeypatch) -> tuple[Tensor, Tensor]:
    """p, q of a pair that disagrees on likely and unlikely tokens; sum p^2 = .2952."""
    p, q = [0.4, 0.3, 0.2, 0.06, 0.04, 0.0], [0.1, 0.35, 0.25, 0.2, 0.1, 1e-30]
    monkeypatch.setitem(globals(), "TARGET", Bigrams(torch.tensor([p] * V).log()))
    monkeypatch.setitem(globals(), "DRAFT", Bigrams(torch.tensor([q] * V).log()))
    return torch.tensor(p, dtype=torch.float64), torch.tensor(q, dtype=torch.float64)


@pytest.mark.parametrize(("ratio", "num_liked"), [(0.15, 4), (0.5, 3), (1.0, 2)])
def test_the_distribution_under_the_collision_rule_is_the_derived_one(ratio, num_liked, monkeypatch):
    """docs/collision.md: liked tokens get max(p, q) where q is larger; the rest shrinks in proportion.

    pi = min(p, q) + (q - p)+ on the liked tokens + (rejected mass) * (p - q)+ / TV, and the gain in
    acceptance equals the distortion.
    """
    p, q = five_tokens(monkeypatch)
    liked = p >= ratio * p.square().sum()
    assert liked.sum() == num_liked
    excess, lack = (q - p).clamp_min(0), (p - q).clamp_min(0)
    kept = (excess * ~liked).sum()
    derived = torch.minimum(p, q) + excess * liked + kept * lack / lack.sum()
    emitted, judgement = one_round(
        SamplingTransform(), 1, V, 13, AcceptanceRule("collision", {"ratio": ratio}, 1)
    )
    assert not rejects(torch.bincount(emitted[:, 0], minlength=V).double(), derived)
    distortion = (derived - p).abs().sum().item() / 2
    expected = torch.minimum(p, q).sum().item() + distortion
    share = judgement.num_accepted_B.float().mean().item()
    assert abs(share - expected) < 3.9 * (expected * (1 - expected) / DRAWS) ** 0.5


def test_the_collision_rule_distorts_where_it_relaxes(monkeypatch):
    # the test above could not fail if nothing were relaxed
    p, _ = five_tokens(monkeypatch)
    emitted, judgement = one_round(
        SamplingTransform(), 1, V, 14, AcceptanceRule("collision", {"ratio": 0.5}, 1)
    )
    assert judgement.relaxed_BK.any()
    assert rejects(torch.bincount(emitted[:, 0], minlength=V).double(), p)


# --------------------------------------------------------------------------- exact enumeration


def sampling_of(
    block: tuple[int, ...], transform: SamplingTransform, row_len: int
) -> tuple[RejectionSampling, list[Tensor]]:
    """The rule's own tensors in double precision for one block after token 0, and the draft probabilities [V]."""
    before = torch.tensor([0, *block])
    ids, logprobs = truncate_row(DRAFT.logits_VV.double()[before[:-1]], row_len)
    num_drafted = len(block)
    blocks = BlockBatch(
        (num_drafted,),
        (True,),
        torch.tensor([block]),
        torch.tensor([num_drafted]),
        ids[None].long(),
        logprobs[None],
    )
    sampling = RejectionSampling.of(
        TARGET.logits_VV.double()[None, before], blocks, TransformBatch.build([transform], [0])
    )
    assert sampling is not None
    drafts = top_k_probs(logprobs, TransformBatch.build([transform] * num_drafted, [0] * num_drafted))
    spread = torch.zeros(num_drafted, V, dtype=torch.float64).scatter(1, ids.long(), drafts)
    return sampling, list(spread)


@pytest.mark.parametrize("row_len", [2, 4, V])
@pytest.mark.parametrize("transform", WARPS)
def test_the_distribution_of_three_tokens_by_enumeration_is_the_targets(transform, row_len):
    """Every block of 2, every outcome; shorter answers are completed by the target. Nothing is random."""
    probs = transformed_probs(TARGET.logits_VV.double(), TransformBatch.build([transform] * V, [0] * V))
    emitted = torch.zeros(V, V, V, dtype=torch.float64)
    for block in itertools.product(range(V), repeat=2):
        sampling, drafts = sampling_of(block, transform, row_len)
        reach = (drafts[0][block[0]] * drafts[1][block[1]]).item()
        if reach == 0.0:
            continue
        for num_accepted in range(3):
            next_probs = sampling.weights(torch.tensor([num_accepted]))[0]
            next_probs = next_probs / next_probs.sum()
            stays = reach
            if num_accepted < 2:
                stays = reach * (1 - accept_prob(sampling, num_accepted))
                reach *= accept_prob(sampling, num_accepted)
            if num_accepted == 0:
                emitted += stays * next_probs[:, None, None] * probs[:, :, None] * probs[None]
            elif num_accepted == 1:
                emitted[block[0]] += stays * next_probs[:, None] * probs
            else:
                emitted[block] += stays * next_probs
    expected = probs[0][:, None, None] * probs[:, :, None] * probs[None]
    assert (emitted - expected).abs().max().item() < 1e-9


def accept_prob(sampling: RejectionSampling, at: int) -> float:
    """The share of uniforms that the rule accepts: the largest u with u < target / draft, by bisection.

    Sixty halvings pin it to 2^-60.
    """
    low, high = 0.0, 1.0
    num_drafted = sampling.target_prob_FK.shape[1]
    for _ in range(60):
        middle = (low + high) / 2
        accepted = sampling.accepts(torch.full((1, num_drafted), middle, dtype=torch.float64))[0, at]
        low, high = (middle, high) if accepted else (low, middle)
    return low
