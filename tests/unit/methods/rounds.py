"""Rounds as the tests write them, and a draft whose acceptance falls with its entropy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from adasd.methods.policy import DraftingMethod, RoundOutlook
from adasd.rounds import DraftBlock, RoundCompleted, Verdict


def a_round(
    num_accepted: int,
    num_drafted: int,
    entropies: Sequence[float] | None = None,
    distances: Sequence[float] = (),
    exact_ok: Sequence[bool] = (),
    draft_ms: float = 0.0,
    draft_compute_ms: float = 0.0,
    verify_ms: float = 0.0,
) -> RoundCompleted:
    """One verdict; ``num_drafted`` 0 is a plain round."""
    block = tuple(range(num_drafted))
    entropies = (0.0,) * num_drafted if entropies is None else tuple(entropies)
    drafted = DraftBlock("s", 0, 0, block, entropies, compute_ms=draft_compute_ms) if num_drafted else None
    verdict = Verdict("s", 0, 0, num_accepted, 7, exact_ok=tuple(exact_ok), distances=tuple(distances))
    return RoundCompleted(drafted, verdict, draft_ms, verify_ms)


def judged(accepted: Sequence[float] = (), rejected: float | None = None) -> RoundCompleted:
    """A block whose exact tests passed at distances ``accepted`` and failed at ``rejected``."""
    distances = (*accepted, *(() if rejected is None else (rejected,)))
    passed = [True] * len(accepted) + [False] * (rejected is not None)
    return a_round(len(accepted), len(distances), None, distances, passed)


def simulate(
    policy: DraftingMethod[Any],
    state: Any,
    num_rounds: int,
    chance: Callable[[float], float],
    mean_entropy: float = 0.9,
    cap: int = 16,
    seed: int = 0,
) -> tuple[Any, list[int], list[int]]:
    """Run ``policy`` on exponential entropies; (state, drafted per round, accepted per round)."""
    rng = np.random.default_rng(seed)
    drafted, accepted = [], []
    for _ in range(num_rounds):
        rule = policy.decide(state, RoundOutlook(cap, cap + 1))
        entropies: list[float] = []
        while len(entropies) < rule.max_tokens and not (entropies and entropies[-1] > rule.entropy_ceiling):
            entropies.append(float(rng.exponential(mean_entropy)))
        fails = (i for i, entropy in enumerate(entropies) if rng.random() >= chance(entropy))
        num_accepted = next(fails, len(entropies))
        state = policy.learn(state, a_round(num_accepted, len(entropies), entropies))
        drafted.append(len(entropies))
        accepted.append(num_accepted)
    return state, drafted, accepted
