"""Policies by name, each with its published defaults."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from adasd.errors import InvalidRequest
from adasd.methods.acceptance.adasd import Decision, Posterior, PosteriorOptions
from adasd.methods.acceptance.adasd_v1 import Form, Threshold, ThresholdOptions
from adasd.methods.acceptance.collision import Collision
from adasd.methods.acceptance.fixed import Fixed
from adasd.methods.distance import Laws, Order
from adasd.methods.drafting.adaedl import Adaedl
from adasd.methods.drafting.adasd import Adasd, AdasdOptions
from adasd.methods.drafting.adasd_goodput import AdasdGoodput
from adasd.methods.drafting.assisted import Heuristic
from adasd.methods.drafting.calibrated import Calibrated
from adasd.methods.drafting.confidence import Confidence, DynamicConfidence
from adasd.methods.drafting.goodput import Goodput
from adasd.methods.drafting.on_the_fly import OnTheFly, OnTheFlyCached, OnTheFlyFsm
from adasd.methods.drafting.static import Static
from adasd.methods.policy import AcceptancePolicy, DraftingPolicy
from adasd.requests import Mode
from adasd.rounds import RelaxBelow, RelaxDivergence, RelaxOwnLaw, RelaxTolerance, Yardstick

FSD_DISTANCE = math.sqrt(0.4 / 2.95 / math.log(2))
"""FSD's published bound of 0.4 as a distance (base 2). Its code sums the two divergences the wrong way round, which
is 2.95 times the true value in the median over random laws and has no upper end; the bound is divided by that."""

# A registry mixes policies of different states; each state meets only the policy that made it.
DRAFTING: tuple[DraftingPolicy[Any], ...] = (
    Adasd(),
    Adasd(
        AdasdOptions(drops_last=True),
        name="adasd-discard",
        summary="adasd without the token that passes the ceiling, so that its entropy never enters the mean",
    ),
    AdasdGoodput(),
    Adaedl(),
    Calibrated(),
    Confidence(),
    DynamicConfidence(),
    Goodput(),
    Heuristic(),
    OnTheFly(),
    OnTheFlyFsm(),
    OnTheFlyCached(),
    Static(),
)
ACCEPTANCE: tuple[AcceptancePolicy[Any], ...] = (
    Posterior(),
    Posterior(
        PosteriorOptions(decision=Decision.STOCHASTIC),
        name="posterior-stochastic",
        summary="accepts with the learned posterior probability of acceptance given the distance",
    ),
    Posterior(
        PosteriorOptions(order=Order.ALONE),
        name="posterior-alone",
        summary="the posterior in place of the exact test; what it refuses the target samples itself",
    ),
    Posterior(
        PosteriorOptions(laws=Laws.PROCESSED),
        name="posterior-processed",
        summary="the posterior by distances after temperature, top-k, top-p and min-p; greedy: exact",
    ),
    Threshold(),
    Threshold(
        ThresholdOptions(form=Form.MEAN_ALL),
        name="threshold-mean-all",
        summary="accepts below the mean distance of all judged tokens",
    ),
    Threshold(
        ThresholdOptions(form=Form.MEAN_REJECTED),
        name="threshold-mean-rejected",
        summary="accepts below the mean distance of rejected tokens",
    ),
    Threshold(
        ThresholdOptions(form=Form.CROSSING),
        name="threshold-crossing",
        summary="accepts below the distance at which rejection becomes likelier than acceptance",
    ),
    Collision(),
    Fixed(
        RelaxOwnLaw(0.09, Yardstick.ENTROPY, 0.3),
        name="typical",
        summary="accepts where p(x) >= min(0.3, 0.09 exp(-H(p)))",
        source="typical acceptance, Medusa, arXiv:2401.10774",
    ),
    Fixed(
        RelaxOwnLaw(0.5, Yardstick.LARGEST),
        name="regret",
        summary="accepts where the target's first choice is at most twice as likely (regret log 2)",
        source="regret bound of SGLang's ASD/HEDGE, constant per token, without its weight by position",
    ),
    Fixed(
        RelaxBelow(FSD_DISTANCE),
        name="fsd",
        summary="accepts where the laws' Jensen-Shannon divergence is at most 0.136 nats",
        source="FSD, Holsman et al. 2025, with the divergence as defined",
        needs_distances=True,
    ),
    Fixed(
        RelaxTolerance(0.3),
        name="ears",
        summary="rejects with a tolerance of 0.3 (1 - max p); sampling without a seed only",
        source="EARS, arXiv:2512.13194",
        only_sampled=True,
    ),
    Fixed(
        RelaxDivergence(0.1),
        name="mentored",
        summary="samples the law nearest to the draft's within 0.1 nats of the target's; without a seed only",
        source="mentored decoding, Tran-Thien",
        only_sampled=True,
    ),
)


@dataclass(frozen=True, slots=True)
class ExactRule:
    """How mode exact accepts; every one of them keeps the target's law."""

    name: str
    summary: str
    source: str


EXACT_RULES: tuple[ExactRule, ...] = (
    ExactRule(
        "token",
        "token by token: greedy match, shared noise under a seed, else rejection sampling",
        "Leviathan et al., arXiv:2211.17192; Daliri et al., arXiv:2408.07978",
    ),
    ExactRule(
        "block",
        "the block as a whole, never fewer tokens; sampling without a seed only",
        "block verification, Sun et al., arXiv:2403.10444",
    ),
)


DEFAULT_DRAFTING = {Mode.OFF: "calibrated", Mode.EXACT: "calibrated", Mode.ADAPTIVE: "adasd"}
"""Where neither the request nor the deployment names a drafting policy."""


def drafting_policy(name: str) -> DraftingPolicy[Any]:
    """The drafting policy of that name; InvalidRequest with all names if there is none."""
    return _find(name, DRAFTING, "drafting")


def acceptance_policy(name: str) -> AcceptancePolicy[Any]:
    """The acceptance policy of that name; InvalidRequest with all names if there is none."""
    return _find(name, ACCEPTANCE, "acceptance")


def exact_rule(name: str) -> ExactRule:
    """The exact rule of that name; InvalidRequest with all names if there is none."""
    return _find(name, EXACT_RULES, "exact acceptance")


Policy = TypeVar("Policy", DraftingPolicy[Any], AcceptancePolicy[Any], ExactRule)


def _find(name: str, policies: Sequence[Policy], kind: str) -> Policy:
    by_name = {policy.name: policy for policy in policies}
    if name in by_name:
        return by_name[name]
    near = difflib.get_close_matches(name, by_name, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise InvalidRequest(
        f"there is no {kind} policy {name!r}{hint}; known: {', '.join(sorted(by_name))}",
        f"speculation.{kind.split()[-1]}",
    )
