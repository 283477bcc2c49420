"""Verification of made-up sessions, described once for the batched code and its slow twin."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from adasd.engine.sampling.verdicts import Judge
from adasd.methods.policy import Bounds
from adasd.methods.registry import acceptance_methods, needs_distances
from adasd.rounds import BLOCK, AcceptanceRule, DraftDistributions, SamplingTransform
from adasd.specdec.blocks import BlockBatch
from adasd.specdec.distributions import TransformBatch, masked_block_logits, masked_logits
from adasd.specdec.draft_step import propose
from adasd.specdec.random_source import GivenNumbers
from adasd.specdec.verify import Judgement, RandomNumbers, draw_random_numbers, judge
from adasd.specdec.verify_reference import ReferenceJudgement, judge_one


@dataclass(frozen=True)
class Session:
    """One session with a drafted block to verify; ``target_logits`` is [K + 1, V], unmasked."""

    target_logits: Tensor
    block: tuple[int, ...] = ()
    distributions: DraftDistributions | None = None
    transform: SamplingTransform = field(default_factory=SamplingTransform)
    base_len: int = 5
    rule: AcceptanceRule = field(default_factory=AcceptanceRule)


@dataclass(frozen=True)
class Judged:
    """Batched inputs and outcome, kept for the twin."""

    judgement: Judgement
    numbers: RandomNumbers
    masked_BJV: Tensor


def run(
    sessions: Sequence[Session], generator: torch.Generator | None = None, judge: Judge = judge
) -> Judged:
    """Verify all sessions in one batch; padding positions hold NaN logits, which must not matter."""
    longest = max(len(s.block) for s in sessions)
    vocab_size = sessions[0].target_logits.shape[-1]
    logits_BJV = torch.full((len(sessions), longest + 1, vocab_size), torch.nan)
    for b, session in enumerate(sessions):
        logits_BJV[b, : len(session.block) + 1] = session.target_logits
    transforms, bases = [s.transform for s in sessions], [s.base_len for s in sessions]
    masked_BJV = masked_block_logits(logits_BJV, transforms, bases)
    batch = TransformBatch.build(transforms, bases)
    rules = [s.rule for s in sessions]
    numbers = draw_random_numbers(batch, rules, longest, vocab_size, generator)
    blocks = BlockBatch.pack([s.block for s in sessions], [s.distributions for s in sessions])
    return Judged(judge(masked_BJV, blocks, batch, rules, numbers), numbers, masked_BJV)


def of_batch(judgement: Judgement, b: int, session: Session) -> ReferenceJudgement:
    """Session b's part of a batched result, in the twin's form."""
    accepted = int(judgement.num_accepted_B[b])
    judged = min(accepted + 1, len(session.block))
    return ReferenceJudgement(
        accepted,
        int(judgement.next_token_B[b]),
        tuple(judgement.relaxed_BK[b, :accepted].tolist()),
        tuple(judgement.exact_ok_BK[b, :judged].tolist()),
        tuple(judgement.distance_BK[b, :judged].tolist()),
        float(judgement.distortion_B[b]),
    )


def twin(judged: Judged, b: int, sampled_index: int | None, session: Session) -> ReferenceJudgement:
    """The slow twin's result for session b with the same random inputs."""
    num_drafted = len(session.block)
    accept, expo = [0.0] * num_drafted, [1.0] * session.target_logits.shape[-1]
    if sampled_index is not None:
        accept = judged.numbers.accept_FK[sampled_index].tolist()
        expo = judged.numbers.expo_FV[sampled_index].tolist()
    return judge_one(
        judged.masked_BJV[b, : num_drafted + 1].tolist(),
        session.block,
        session.distributions.ids.tolist() if session.distributions else None,
        session.distributions.logprobs.tolist() if session.distributions else None,
        session.transform,
        session.base_len,
        session.rule,
        GivenNumbers(accept, expo, judged.numbers.relax_BK[b].tolist()),
    )


def random_session(rng: random.Random, generator: torch.Generator, vocab_size: int = 23) -> Session:
    """Any kind, transform, rule and block length; the draft resembles the target more or less."""
    base_len = rng.randrange(2, 40)
    transform = random_transform(rng, base_len, vocab_size)
    num_drafted = rng.choice([0, 1, 2, 3, 5])
    target = 2.0 * torch.randn(num_drafted + 1, vocab_size, generator=generator)
    noise = torch.randn(num_drafted, vocab_size, generator=generator)
    draft = target[:-1] + rng.choice([0.05, 0.5, 2.0]) * noise
    unseeded = not transform.greedy and transform.seed is None
    rule = AcceptanceRule(BLOCK) if unseeded and rng.random() < 0.2 else random_rule(rng)
    row_len = rng.choice([4, 8, vocab_size]) if unseeded or needs_distances(rule) or rng.random() < 0.5 else 0
    block, rows = draft_block(draft, transform, base_len, row_len, generator)
    return Session(target, block, rows, transform, base_len, replace(rule, want_distances=rows is not None))


def random_transform(rng: random.Random, base_len: int, vocab_size: int) -> SamplingTransform:
    """A transform with each of its parts on or off."""
    return SamplingTransform(
        temperature=rng.choice([0.0, 0.5, 1.0, 1.7]),
        top_k=rng.choice([0, 0, 3, 8, 100]),
        top_p=rng.choice([1.0, 1.0, 0.6, 0.9]),
        min_p=rng.choice([0.0, 0.0, 0.2]),
        logit_bias=rng.choice([(), (), ((3, 4.0), (7, -100.0), (vocab_size + 5, 9.0))]),
        eos_ids=(0, 1),
        eos_from=base_len + rng.choice([-1, 1, 2, 9]),
        seed=rng.choice([None, rng.getrandbits(64)]),
    )


def random_rule(rng: random.Random) -> AcceptanceRule:
    """No relaxation, or a method with random parameters and budgets."""
    if rng.random() < 0.15:
        return AcceptanceRule()
    method = rng.choice(acceptance_methods())
    params = {name: random_param(rng, name, bounds) for name, bounds in method.rule_params.items()}
    budget, most = rng.choice([0, 1, 2, 9]), rng.choice([math.inf, math.inf, 0.1, 1.0])
    return AcceptanceRule(method.name, params, budget, max_distortion=most)


def random_param(rng: random.Random, name: str, bounds: Bounds) -> float | tuple[float, ...]:
    """A falling table, or a number in the lower part of its range."""
    if bounds.length is not None:
        return tuple(1.0 - i / bounds.length for i in range(bounds.length))
    return float(rng.randrange(3)) if name == "window" else rng.random() * min(bounds.high, 1.5)


def draft_block(
    draft_logits_KV: Tensor,
    transform: SamplingTransform,
    base_len: int,
    row_len: int,
    generator: torch.Generator | None = None,
) -> tuple[tuple[int, ...], DraftDistributions | None]:
    """Tokens that the draft would propose from these logits, and their top-k distributions."""
    num_drafted = draft_logits_KV.shape[0]
    if num_drafted == 0:
        return (), None
    positions = [base_len + i for i in range(num_drafted)]
    masked = masked_logits(draft_logits_KV, [transform] * num_drafted, positions)
    batch = TransformBatch.build([transform] * num_drafted, positions)
    proposal = propose(masked, batch, [row_len] * num_drafted, generator)
    rows = None
    if proposal.top_ids_NR is not None and proposal.top_logprobs_NR is not None:
        rows = DraftDistributions(proposal.top_ids_NR.numpy(), proposal.top_logprobs_NR.numpy())
    return tuple(proposal.tokens_N.tolist()), rows


def seeded(seed: int) -> torch.Generator:
    """A generator with a fixed seed."""
    return torch.Generator().manual_seed(seed)
