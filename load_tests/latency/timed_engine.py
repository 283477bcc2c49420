"""A CountingEngine with simulated compute: a given time per drafted token and per verdict.

The time is spent in work that holds no lock, like a forward pass. The draft is wrong at random positions, at the
given rate, and has low confidence exactly there. One engine simulates many pairs of models, one per session.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from adasd.rounds import CallFailed, DraftBlock, DraftCall, Verdict, VerifyCall
from load_tests.latency.counting_engine import CountingEngine

WORK = bytes(32 * 1024)
"""Hashed repeatedly; one pass takes about 20 microseconds."""
SURE, IN_DOUBT = 0.95, 0.5
"""The draft's confidence where it is right, and where it is wrong."""


@dataclass(frozen=True, slots=True)
class Costs:
    """A simulated pair of models: milliseconds per forward pass, and how often the draft is right."""

    draft_ms: float  # per drafted token
    verify_ms: float  # per verdict, for any block length
    acceptance: float  # probability that a drafted token is right, independent of all others
    seed: int = 0
    second: float = 0.0  # probability that the second choice is right where the first one is wrong


class TimedEngine(CountingEngine):
    """One token per step for draft calls, one verdict per step for verify calls; ``costs`` by session."""

    def __init__(self, costs: Mapping[str, Costs], max_context: int = 4096) -> None:
        super().__init__(num_slots=len(costs), max_context=max_context)
        self._costs = dict(costs)
        self._right = {
            session: _chances(each.acceptance, each.seed, max_context) for session, each in costs.items()
        }
        self._second = {
            session: _chances(each.second, f"second {each.seed}", max_context)
            for session, each in costs.items()
        }
        self._done: dict[tuple[str, int], int] = {}  # (session, epoch) -> steps of the call so far

    def step(self) -> list[DraftBlock | Verdict | CallFailed]:
        waiting = dict(self._waiting)
        work(1e-3 * max((self._step_ms(call) for call in waiting.values()), default=0.0))
        self._done = {(s, call.epoch): self._done.get((s, call.epoch), 0) + 1 for s, call in waiting.items()}
        unfinished = {s: call for s, call in waiting.items() if self._done[s, call.epoch] < num_steps(call)}
        for session in unfinished:
            del self._waiting[session]
        answers = super().step()
        self._waiting.update(unfinished)
        return answers

    def _step_ms(self, call: DraftCall | VerifyCall) -> float:
        costs = self._costs[call.session]
        return costs.draft_ms if isinstance(call, DraftCall) else costs.verify_ms

    def _draft(self, call: DraftCall) -> DraftBlock:
        drafted = super()._draft(call)
        here = slice(drafted.base_len, drafted.base_len + len(drafted.tokens))
        right, second = self._right[call.session][here], self._second[call.session][here]
        block = tuple(
            (token + (not hit)) % self.vocab_size for token, hit in zip(drafted.tokens, right, strict=True)
        )
        others = tuple(
            due if not hit and hit_second else (token + 1) % self.vocab_size
            for due, token, hit, hit_second in zip(drafted.tokens, block, right, second, strict=True)
        )
        self._slot(call.session).tokens[drafted.base_len :] = block[:-1]
        return replace(
            drafted,
            tokens=block,
            compute_ms=num_steps(call) * self._step_ms(call),
            confidences=tuple(SURE if hit else IN_DOUBT for hit in right),
            runner_ups=others if call.rule.want_runner_ups else (),
        )

    def _verify(self, call: VerifyCall) -> Verdict:
        return replace(super()._verify(call), compute_ms=self._step_ms(call))


def num_steps(call: DraftCall | VerifyCall) -> int:
    """Forward passes that a call takes."""
    return max(1, call.rule.max_tokens) if isinstance(call, DraftCall) else 1


def work(seconds: float) -> None:
    """Keep a core busy for this long."""
    end_s = time.perf_counter() + seconds
    while time.perf_counter() < end_s:
        hashlib.sha256(WORK)


def _chances(probability: float, seed: int | str, num: int) -> tuple[bool, ...]:
    rng = random.Random(seed)
    return tuple(rng.random() < probability for _ in range(num))
