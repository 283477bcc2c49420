"""Policies by name, each with its published defaults."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, TypeVar

from adasd.control.acceptance_own_law import Collision, FixedOwnLaw
from adasd.control.acceptance_posterior import Decision, Posterior, PosteriorOptions
from adasd.control.acceptance_threshold import Form, Threshold, ThresholdOptions
from adasd.control.adaedl import Adaedl
from adasd.control.adasd import Adasd
from adasd.control.confidence import Confidence, DynamicConfidence
from adasd.control.goodput import Goodput
from adasd.control.heuristic import Heuristic
from adasd.control.on_the_fly import OnTheFly, OnTheFlyCached, OnTheFlyFsm
from adasd.control.policy import AcceptancePolicy, DraftingPolicy
from adasd.control.static import Static
from adasd.errors import InvalidRequest
from adasd.messages import RelaxOwnLaw, Yardstick

# A registry mixes policies of different states; each state meets only the policy that made it.
DRAFTING: tuple[DraftingPolicy[Any], ...] = (
    Adasd(),
    Adaedl(),
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
    Collision(),
    FixedOwnLaw(
        RelaxOwnLaw(0.09, Yardstick.ENTROPY, 0.3),
        name="typical",
        summary="accepts where p(x) >= min(0.3, 0.09 exp(-H(p)))",
        source="typical acceptance, Medusa, arXiv:2401.10774",
    ),
    FixedOwnLaw(
        RelaxOwnLaw(0.5, Yardstick.LARGEST),
        name="regret",
        summary="accepts where the target's first choice is at most twice as likely (regret log 2)",
        source="regret bound of SGLang's ASD/HEDGE, constant per token, without its weight by position",
    ),
)


def drafting_policy(name: str) -> DraftingPolicy[Any]:
    """The drafting policy of that name; InvalidRequest with all names if there is none."""
    return _find(name, DRAFTING, "drafting")


def acceptance_policy(name: str) -> AcceptancePolicy[Any]:
    """The acceptance policy of that name; InvalidRequest with all names if there is none."""
    return _find(name, ACCEPTANCE, "acceptance")


Policy = TypeVar("Policy", DraftingPolicy[Any], AcceptancePolicy[Any])


def _find(name: str, policies: Sequence[Policy], kind: str) -> Policy:
    by_name = {policy.name: policy for policy in policies}
    if name in by_name:
        return by_name[name]
    near = difflib.get_close_matches(name, by_name, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise InvalidRequest(
        f"there is no {kind} policy {name!r}{hint}; known: {', '.join(sorted(by_name))}",
        f"speculation.{kind}",
    )
