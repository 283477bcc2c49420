"""The controller: policies, what they have learned, and the rules of a request's next round.

One ``Controller`` per process and pair of models, used from one thread. It never sees a device or a link.

With a seed, mode ``adaptive`` must give equal output for equal requests although relaxation and block ends
shape it. So such a request learns from itself alone: it starts its policies from nothing. In mode ``exact``
output does not depend on drafting, and every request starts from what the process knows.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil, floor, isfinite
from typing import Any

from adasd.config import SpeculationConfig
from adasd.control.ahead import drafting_ahead_pays
from adasd.control.effective import EffectiveSpeculation, check_config, resolve
from adasd.control.estimators import Estimates
from adasd.control.gate import Gate
from adasd.control.load import under_load
from adasd.control.policy import PLAIN, Plan, Relaxation, Snapshot
from adasd.control.registry import acceptance_policy, drafting_policy
from adasd.messages import (
    NUM_DISTANCE_BINS,
    AcceptRule,
    DraftRule,
    Mode,
    RelaxBelow,
    RelaxOwnLaw,
    RoundCompleted,
    SpeculationOptions,
    Warp,
)

__all__ = ["Controller", "EffectiveSpeculation", "SessionController"]


class Controller:
    """What all requests of one pair of models share.

    Learned states are kept per policy and per circumstance under which it means the same: drafting by mode
    (relaxation moves T_G), acceptance by a bucket of temperature (it changes who passes the exact test).
    """

    def __init__(self, config: SpeculationConfig, has_draft: bool = True) -> None:
        check_config(config)
        self.config = config
        self._has_draft = has_draft
        self._estimates = Estimates()
        self._gate = Gate()
        self._drafting: dict[tuple[str, Mode], Any] = {}
        self._acceptance: dict[tuple[str, float], Any] = {}

    def effective(self, options: SpeculationOptions) -> EffectiveSpeculation:
        """Options with the deployment's defaults; InvalidRequest naming the field that cannot be honoured."""
        return resolve(options, self.config, self._has_draft)

    def session(self, effective: EffectiveSpeculation, warp: Warp) -> SessionController:
        """The controller of one request, which begins now."""
        return SessionController(self, effective, warp)

    @property
    def estimates(self) -> Estimates:
        """What all requests' rounds say about the pair."""
        return self._estimates

    def drafting_state(self, effective: EffectiveSpeculation) -> Any:
        """The process's state of the request's drafting policy."""
        start = drafting_policy(effective.drafting).start
        return self._drafting.setdefault((effective.drafting, effective.mode), start(None))

    def acceptance_state(self, name: str, warp: Warp) -> Any:
        """The process's state of the acceptance policy of that name."""
        return self._acceptance.setdefault((name, _bucket(warp)), acceptance_policy(name).start(None))

    @property
    def gate(self) -> Gate:
        """What all requests together say of drafting; new requests begin with it."""
        return self._gate

    def learn(self, effective: EffectiveSpeculation, warp: Warp, round: RoundCompleted) -> None:
        """Feed a request's round into what all share."""
        if effective.gated:
            self._gate = self._gate.learn(round, self._estimates.plain_ms)
        self._estimates = self._estimates.learn(round)
        if effective.mode is Mode.OFF:
            return
        drafting = drafting_policy(effective.drafting)
        state = drafting.learn(self.drafting_state(effective), round)
        self._drafting[effective.drafting, effective.mode] = state
        if effective.acceptance is None or (warp.seed is not None and not warp.greedy):
            return  # shared noise passes other tokens than rejection sampling: labels of another kind
        acceptance = acceptance_policy(effective.acceptance)
        state = acceptance.learn(self.acceptance_state(effective.acceptance, warp), round)
        self._acceptance[effective.acceptance, _bucket(warp)] = state


def _bucket(warp: Warp) -> float:
    """Upper end of the temperatures that share labels: 0 (greedy), 0.5, 1, 1.5, ..."""
    return ceil(2 * warp.temperature) / 2


class SessionController:
    """Plans the rounds of one request and learns from them."""

    def __init__(self, controller: Controller, effective: EffectiveSpeculation, warp: Warp) -> None:
        self.effective = effective
        self._controller = controller
        self._warp = warp
        self._row_len = controller.config.row_len if self._needs_rows(effective, warp) else 0
        alone = effective.mode is Mode.ADAPTIVE and warp.seed is not None
        # alone: must not follow the clock
        self._gate = controller.gate if effective.gated and not alone else None
        self._num_rounds = 0
        self._estimates = Estimates() if alone else controller.estimates
        self._drafting = drafting_policy(effective.drafting)
        self._drafting_state = self._drafting.start(None if alone else controller.drafting_state(effective))
        self._acceptance, self._acceptance_state = None, None
        if effective.acceptance is not None:
            self._acceptance = acceptance_policy(effective.acceptance)
            shared = None if alone else controller.acceptance_state(effective.acceptance, warp)
            self._acceptance_state = self._acceptance.start(shared)

    @staticmethod
    def _needs_rows(effective: EffectiveSpeculation, warp: Warp) -> bool:
        """Distances and rejection sampling need the draft's law; greedy match and shared noise do not."""
        by_distance = effective.acceptance and acceptance_policy(effective.acceptance).needs_distances
        return bool(by_distance) or (not warp.greedy and warp.seed is None)

    def plan(self, remaining_tokens: int, num_emitted: int, num_relaxed: int) -> Plan:
        """The next round's rules. ``remaining_tokens`` may still be emitted; ``num_emitted`` were, and
        ``num_relaxed`` of them by relaxation. Never drafts so many that the target's own token would not fit.
        """
        cap = min(self.effective.max_draft_tokens, remaining_tokens - 1)
        if self.effective.mode is Mode.OFF or cap < 1 or (self._gate and not self._gate.lets_draft):
            return PLAIN
        snapshot = self._snapshot(cap, remaining_tokens, num_emitted, num_relaxed)
        rule = self._drafting.decide(self._drafting_state, snapshot)
        if rule.max_tokens < 1:
            return PLAIN
        if self._controller.config.load_aware:
            rule = under_load(rule, snapshot)
        rule = replace(rule, max_tokens=min(rule.max_tokens, cap), row_len=self._row_len)
        ahead = self._controller.config.draft_ahead and drafting_ahead_pays(self._estimates)
        return Plan(rule, self._accept(rule, snapshot), ahead)

    def learn(self, round: RoundCompleted) -> None:
        """Take a verdict (not the prefill's) into the request's and the process's state."""
        self._num_rounds += 1
        self._estimates = self._estimates.learn(round)
        if self._gate:
            self._gate = self._gate.learn(round, self._estimates.plain_ms)
        self._drafting_state = self._drafting.learn(self._drafting_state, round)
        if self._acceptance:
            self._acceptance_state = self._acceptance.learn(self._acceptance_state, round)
        self._controller.learn(self.effective, self._warp, round)

    @property
    def generation_threshold(self) -> float | None:
        """Entropy ceiling in force, nats; None: there is none."""
        if self.effective.mode is Mode.OFF:
            return None
        ceiling = self._drafting.decide(self._drafting_state, self._any_snapshot()).entropy_ceiling
        return ceiling if isfinite(ceiling) else None

    @property
    def acceptance_threshold(self) -> float | None:
        """Largest distance accepted with at least even odds now; None: nothing is relaxed by distance."""
        relax = self._relaxation(self._any_snapshot())
        if relax is None or isinstance(relax, RelaxOwnLaw):
            return None
        if isinstance(relax, RelaxBelow):
            return relax.max_distance
        accepted = [i for i, chance in enumerate(relax.accept_prob) if chance >= 0.5]
        return (accepted[-1] + 1) / NUM_DISTANCE_BINS if accepted else None

    def _snapshot(self, cap: int, remaining_tokens: int, num_emitted: int, num_relaxed: int) -> Snapshot:
        verify = self._estimates.verify_ms.fit()
        return Snapshot(
            max_draft_tokens=cap,
            remaining_tokens=remaining_tokens,
            num_emitted=num_emitted,
            num_relaxed=num_relaxed,
            max_relaxed_fraction=self.effective.max_relaxed_fraction,
            num_rounds=self._num_rounds,
            survival=self._estimates.survival.curve(cap),
            draft_ms=self._estimates.draft_ms.value,
            hop_ms=self._estimates.hop_ms.value,
            verify_ms=verify[0] if verify else None,
            verify_ms_per_token=verify[1] if verify else 0.0,
            mean_block=self._estimates.length.value,
            batch_size=self._estimates.batch_size.value or 1.0,
            cost=self._estimates.cost,
            wait_ms=self._estimates.wait_ms.value or 0.0,
            queue_ms=self._estimates.queue_ms.value,
        )

    def _any_snapshot(self) -> Snapshot:
        """For questions about the rules in force, outside of a round."""
        cap = self.effective.max_draft_tokens
        return self._snapshot(cap, cap + 1, 0, 0)

    def _relaxation(self, snapshot: Snapshot) -> Relaxation | None:
        return self._acceptance.decide(self._acceptance_state, snapshot) if self._acceptance else None

    def _accept(self, draft: DraftRule, snapshot: Snapshot) -> AcceptRule:
        """Exact, or relaxed within the share of the answer that the request allows."""
        if self.effective.mode is not Mode.ADAPTIVE or self._acceptance is None:
            return AcceptRule()
        allowed = floor(self.effective.max_relaxed_fraction * (snapshot.num_emitted + draft.max_tokens))
        budget = max(0, allowed - snapshot.num_relaxed)
        relax = self._relaxation(snapshot)
        return AcceptRule(relax, budget if relax else 0, self._acceptance.needs_distances)
