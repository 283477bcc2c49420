"""Mentored decoding (Tran-Thien): of all laws near the target's, the one that accepts the most drafted tokens.

    pi = min(max(q, p / b), p / a),  a <= 1 <= b,  sum pi = 1,  KL(p || pi) = D

Accept x with probability min(1, p(x) / (a q(x))); a rejected token is replaced by a draw from max(0, p / b - q).
D = 0 is rejection sampling. pi(x) = 0 wherever p(x) = 0: nothing forbidden is ever emitted. Where even pi = q (on
the target's support) costs less than D, a is so small that everything allowed is accepted.

With r = q / p sorted, sums over {r < 1/b}, the middle and {r > 1/a} are differences of running sums, so b follows
from a in closed form and one bisection over a remains. Shape letters: N rows, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SMALLEST = -30.0
"""Logarithm of the smallest a that is tried."""
HALVINGS = 60


@dataclass(frozen=True, slots=True, eq=False)
class Bounds:
    """a and b of each row."""

    lower_N: Tensor  # a in (0, 1]
    upper_N: Tensor  # b >= 1


@dataclass(frozen=True, slots=True, eq=False)
class _Sorted:
    """A row's tokens by rising r, and running sums with a 0 in front, [N, V + 1]."""

    ratio_NV: Tensor
    target_NL: Tensor
    draft_NL: Tensor
    bits_NL: Tensor  # of p log(p / q)
    lift_NV: Tensor  # G at 1/b = r_j: what the tokens below r_j gain there

    @classmethod
    def of(cls, target_NV: Tensor, draft_NV: Tensor) -> _Sorted:
        ratio_NV = torch.where(target_NV > 0, draft_NV / target_NV, torch.full_like(target_NV, torch.inf))
        ratio_NV, order_NV = ratio_NV.sort(dim=-1)
        target_NV, draft_NV = target_NV.gather(-1, order_NV), draft_NV.gather(-1, order_NV)
        both_NV = (target_NV > 0) & (draft_NV > 0)
        bits_NV = torch.where(both_NV, -target_NV * ratio_NV.log(), torch.zeros_like(target_NV))
        target_NL, draft_NL, bits_NL = (_running(x) for x in (target_NV, draft_NV, bits_NV))
        finite_NV = torch.where(ratio_NV.isinf(), torch.zeros_like(ratio_NV), ratio_NV)
        lift_NV = target_NL[:, 1:] * finite_NV - draft_NL[:, 1:]
        return cls(
            ratio_NV,
            target_NL,
            draft_NL,
            bits_NL,
            lift_NV.masked_fill(ratio_NV.isinf(), torch.inf).contiguous(),
        )

    def split(self, log_lower_N1: Tensor) -> tuple[Tensor, Tensor]:
        """(b, KL(p || pi)) for log a, each [N, 1]."""
        lower_N1 = log_lower_N1.exp()
        top_N1 = torch.searchsorted(self.ratio_NV, 1 / lower_N1, right=True)
        target_top = self.target_NL[:, -1:] - self.target_NL.gather(-1, top_N1)
        draft_top = self.draft_NL[:, -1:] - self.draft_NL.gather(-1, top_N1)
        trimmed_N1 = (draft_top - target_top / lower_N1).clamp_min(0.0)
        bottom_N1 = torch.searchsorted(self.lift_NV, trimmed_N1).minimum(top_N1)
        target_bottom = self.target_NL.gather(-1, bottom_N1)
        raised_N1 = trimmed_N1 + self.draft_NL.gather(-1, bottom_N1)
        is_raised_N1 = raised_N1 > 0  # else pi = q on the target's support
        upper_N1 = torch.where(is_raised_N1, target_bottom / raised_N1, torch.inf).clamp_min(1.0)
        raising_N1 = torch.where(is_raised_N1, target_bottom * upper_N1.log(), 0.0)
        middle = self.bits_NL.gather(-1, top_N1) - self.bits_NL.gather(-1, bottom_N1)
        divergence_N1 = raising_N1 + middle + target_top * log_lower_N1
        num_absent_N1 = (self.ratio_NV == 0).sum(dim=-1, keepdim=True)  # what the draft never writes
        return upper_N1, divergence_N1.masked_fill(num_absent_N1 > bottom_N1, torch.inf)


def bounds(target_NV: Tensor, draft_NV: Tensor, max_divergence_N: Tensor) -> Bounds:
    """a and b of every row; both 1 where ``max_divergence_N`` is 0. Laws sum to 1 per row."""
    laws = _Sorted.of(target_NV.double(), draft_NV.double())
    limit_N1 = max_divergence_N.double()[:, None]
    is_exact_N1 = limit_N1 <= 0  # rounding alone would cost more
    low_N1 = torch.full_like(limit_N1, SMALLEST)
    high_N1 = torch.zeros_like(limit_N1)
    for _ in range(HALVINGS):
        middle_N1 = (low_N1 + high_N1) / 2
        too_far_N1 = (laws.split(middle_N1)[1] > limit_N1) | is_exact_N1
        low_N1 = torch.where(too_far_N1, middle_N1, low_N1)
        high_N1 = torch.where(too_far_N1, high_N1, middle_N1)
    lower_N1 = high_N1.exp().masked_fill(is_exact_N1, 1.0)
    upper_N1 = laws.split(high_N1)[0].masked_fill(is_exact_N1, 1.0)
    return Bounds(lower_N1[:, 0], upper_N1[:, 0])


def _running(values_NV: Tensor) -> Tensor:
    return torch.nn.functional.pad(values_NV.cumsum(dim=-1), (1, 0)).contiguous()
