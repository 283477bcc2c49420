"""What the target itself thinks of a drafted token, against its law after masks at temperature 1.

``RelaxOwnLaw``: p(x) >= min(ceiling, min_ratio * yardstick(p)). With the collision probability as yardstick it
is our own rule (docs/collision.md); with exp(-H) it is typical acceptance (Medusa, arXiv:2401.10774), with the
largest probability a bound on the regret log max p - log p(x).
Shape letters: B sessions, K drafted tokens, J = K + 1 target laws per session, S those of the B sessions whose
rule is such a test, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adasd.rounds import RelaxOwnLaw, Yardstick
from adasd.specdec.blocks import BlockBatch, RuleBatch
from adasd.specdec.divergence import entropy


def measure(probs: Tensor, yardstick: Yardstick) -> Tensor:
    """The yardstick of each law: [..., V] -> [...], in (0, 1]."""
    match yardstick:
        case Yardstick.COLLISION:
            return probs.square().sum(-1)
        case Yardstick.ENTROPY:
            return (-entropy(probs)).exp()
        case Yardstick.LARGEST:
            return probs.amax(-1)


@dataclass(frozen=True, slots=True, eq=False)
class Bar:
    """What the target asks of a token, for the sessions of one yardstick."""

    rows: list[int]  # which of the B sessions
    probs_SKV: Tensor  # the target's laws after masks at temperature 1
    needed_SK: Tensor  # the probability that is enough


def bars(masked_logits_BJV: Tensor, blocks: BlockBatch, rules: RuleBatch) -> list[Bar]:
    """The sessions whose rule is such a test and that have something to spend, by yardstick."""
    found = []
    for yardstick in Yardstick:
        rows = [
            row
            for row, rule in enumerate(rules.rules)
            if blocks.lens[row]
            and isinstance(rule.relax, RelaxOwnLaw)
            and rule.relax.yardstick is yardstick
            and rule.relax_budget > 0
        ]
        if rows:
            probs_SKV = torch.softmax(masked_logits_BJV[rows, :-1], dim=-1)
            needed_SK = rules.min_ratio_B[rows, None] * measure(probs_SKV, yardstick)
            found.append(Bar(rows, probs_SKV, needed_SK.minimum(rules.ceiling_B[rows, None])))
    return found


def likes(found: Sequence[Bar], blocks: BlockBatch) -> Tensor:
    """Whether each drafted token passes its session's test; False for other rules and beyond a block, [B, K]."""
    liked_BK = torch.zeros_like(blocks.tokens_BK, dtype=torch.bool)
    for bar in found:
        drafted_SK = bar.probs_SKV.gather(-1, blocks.tokens_BK[bar.rows][..., None])[..., 0]
        liked_BK[bar.rows] = drafted_SK >= bar.needed_SK
    return liked_BK
