"""The controller: policies, what they have learned, and the rules of a request's next round.

One ``Controller`` per process and pair of models, used from one thread. It never sees a device or a link.

With a seed, mode ``adaptive`` must give equal output for equal requests although relaxation and block ends
shape it. So such a request learns from itself alone: it starts its policies from nothing. In mode ``exact``
output does not depend on drafting, and every request starts from what the process knows.

What is measured and learned about drafting is kept per draft source; what a verdict without a block takes is
the same for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, floor, isfinite
from typing import Any

from adasd.config import SpeculationConfig
from adasd.control import draft_sources
from adasd.control.bypass import Bypass
from adasd.control.draft_choice import NOTHING, OWN_ROUNDS, Selector, task_of
from adasd.control.estimators import Estimates
from adasd.control.load_cap import under_load
from adasd.control.lookahead import drafting_ahead_pays, preparing_for_rejection_pays
from adasd.control.options import EffectiveSpeculation, check_config, check_transform, resolve
from adasd.methods.policy import RoundOutlook
from adasd.methods.registry import acceptance_method, drafting_method
from adasd.requests import Mode, SpeculationOptions
from adasd.rounds import BLOCK, TOKEN, AcceptanceRule, Params, RoundCompleted, SamplingTransform, StopRule

__all__ = ["PLAIN", "Controller", "EffectiveSpeculation", "Plan", "SessionController"]


@dataclass(frozen=True, slots=True)
class Plan:
    """The rules of one round; ``draft.max_tokens == 0`` means that it is a plain one."""

    draft: StopRule
    accept: AcceptanceRule
    drafts_ahead: bool = False  # the draft may go on behind the block while the target judges it
    drafts_for_rejection: bool = False  # it may prepare for the block's rejection meanwhile


PLAIN = Plan(StopRule(0), AcceptanceRule())


class Controller:
    """What all requests of one pair of models share.

    Learned states are kept per source, per method and per circumstance under which they mean the same: drafting
    by mode (relaxation moves T_G), acceptance by a bucket of temperature (it changes who passes the exact test).
    ``tiers`` are the names of the draft models, the preferred one first.
    """

    def __init__(self, config: SpeculationConfig, tiers: Sequence[str] = (draft_sources.MODEL,)) -> None:
        check_config(config)
        self.config, self.tiers = config, tuple(tiers)
        self.selector = Selector((*self.tiers, draft_sources.SUFFIX), guests=(draft_sources.NGRAM,))
        self._target = Estimates()  # what verdicts take is the same for all sources
        self._estimates: dict[str, Estimates] = {}
        self._bypasses: dict[str, Bypass] = {}
        self._drafting: dict[tuple[str, str, Mode, float], Any] = {}
        self._acceptance: dict[tuple[str, str, float], Any] = {}

    def effective(
        self, options: SpeculationOptions, transform: SamplingTransform | None = None
    ) -> EffectiveSpeculation:
        """Options with the deployment's defaults; InvalidRequest naming the field that cannot be honoured.

        ``transform``, where it is known already: how the request samples.
        """
        effective = resolve(options, self.config, self.tiers)
        return effective if transform is None else check_transform(options, effective, transform)

    def session(
        self, effective: EffectiveSpeculation, transform: SamplingTransform, prompt: Sequence[int] = ()
    ) -> SessionController:
        """The controller of one request, which begins now."""
        return SessionController(self, effective, transform, prompt)

    def estimates(self, source: str) -> Estimates:
        """What all requests' rounds say about the target and one draft source."""
        return self._estimates.get(source, Estimates()).with_target(self._target)

    def drafting_state(
        self, source: str, effective: EffectiveSpeculation, transform: SamplingTransform
    ) -> Any:
        """The process's state of the request's drafting policy, for requests that sample alike."""
        start = drafting_method(effective.drafting).start
        key = source, effective.drafting, effective.mode, _bucket(transform)
        return self._drafting.setdefault(key, start(None))

    def acceptance_state(self, source: str, name: str, transform: SamplingTransform) -> Any:
        """The process's state of the acceptance policy of that name."""
        return self._acceptance.setdefault(
            (source, name, _bucket(transform)), acceptance_method(name).start(None)
        )

    def bypass(self, source: str) -> Bypass:
        """What all requests together say of drafting; new requests begin with it."""
        return self._bypasses.get(source, Bypass())

    def learn(
        self,
        source: str,
        effective: EffectiveSpeculation,
        transform: SamplingTransform,
        round: RoundCompleted,
    ) -> None:
        """Feed a request's round into what all share."""
        estimates = self.estimates(source)
        if effective.may_bypass:
            self._bypasses[source] = self.bypass(source).learn(round, estimates.plain_ms)
        self._estimates[source] = estimates = estimates.learn(round)
        self._target = estimates
        if effective.mode is Mode.OFF:
            return
        drafting = drafting_method(effective.drafting)
        state = drafting.learn(self.drafting_state(source, effective, transform), round)
        self._drafting[source, effective.drafting, effective.mode, _bucket(transform)] = state
        if effective.relaxation is None or (transform.seed is not None and not transform.greedy):
            return  # shared noise passes other tokens than rejection sampling: labels of another kind
        acceptance = acceptance_method(effective.relaxation)
        state = acceptance.learn(self.acceptance_state(source, effective.relaxation, transform), round)
        self._acceptance[source, effective.relaxation, _bucket(transform)] = state


def _bucket(transform: SamplingTransform) -> float:
    """Upper end of the temperatures that share labels: 0 (greedy), 0.5, 1, 1.5, ..."""
    return ceil(2 * transform.temperature) / 2


class SessionController:
    """Plans the rounds of one request and learns from them."""

    def __init__(
        self,
        controller: Controller,
        effective: EffectiveSpeculation,
        transform: SamplingTransform,
        prompt: Sequence[int] = (),
    ) -> None:
        self.effective = effective
        self._controller = controller
        self._transform = transform
        self._row_len = controller.config.row_len if self._needs_rows(effective, transform) else 0
        self.isolated = effective.mode is Mode.ADAPTIVE and transform.seed is not None
        self._num_rounds = 0
        self._drafting = drafting_method(effective.drafting)
        self._distortion = 0.0
        self._acceptance = acceptance_method(effective.relaxation) if effective.relaxation else None
        self._task = task_of(prompt)
        self._failed: set[str] = set()
        self._planned = False  # was the round under way to draft?
        self.sources_used: tuple[str, ...] = ()
        self._begin(self._first_source())

    def _begin(self, source: str) -> None:
        """Start from what is known of a source; alone, from nothing (it must not follow the clock either)."""
        controller, effective, alone = self._controller, self.effective, self.isolated
        self.source, self._own = source, NOTHING
        self._own_rounds = 0
        self._bypass = controller.bypass(source) if effective.may_bypass and not alone else None
        self._estimates = Estimates() if alone else controller.estimates(source)
        shared = None if alone else controller.drafting_state(source, effective, self._transform)
        self._drafting_state = self._drafting.start(shared)
        self._acceptance_state = None
        if self._acceptance is not None:
            shared = (
                None
                if alone
                else controller.acceptance_state(source, effective.relaxation or "", self._transform)
            )
            self._acceptance_state = self._acceptance.start(shared)

    # ----------------------------------------------------------------- the source

    @property
    def chooses(self) -> bool:
        """Is the source chosen here, rather than by the request?"""
        return self.effective.draft == draft_sources.AUTO

    def _first_source(self) -> str:
        selector = self._controller.selector
        if not self.chooses:
            return self.effective.draft or selector.candidates[0]
        return selector.candidates[0] if self.isolated else selector.first(self._task)

    def another_source(self, remaining_tokens: int) -> str | None:
        """A source that would serve the rest of the answer clearly better; None to stay."""
        if not self.chooses or self.isolated or self._own_rounds < OWN_ROUNDS:
            return None
        self._own_rounds = 0  # asked again after as many
        return self._controller.selector.better(
            self._task, self.source, self._own, remaining_tokens, self._failed
        )

    def use(self, source: str) -> None:
        """The blocks come from this source from now on."""
        self._failed.discard(source)
        if source != self.source:
            self._begin(source)

    def source_failed(self, source: str) -> str:
        """The source that is to be tried next: another one if this request leaves the choice."""
        self._failed.add(source)
        if not self.chooses or self.isolated:
            return source
        if self._failed.issuperset(self._controller.selector.candidates):
            self._failed = {source}
        return self._controller.selector.first(self._task, self._failed)

    def attached(self, source: str, took_ms: float) -> None:
        """How long it took until the source could draft."""
        plain_ms = self._estimates.plain_ms
        if plain_ms:
            self._controller.selector.attached(source, took_ms / plain_ms)

    # ----------------------------------------------------------------- rounds

    @staticmethod
    def _needs_rows(effective: EffectiveSpeculation, transform: SamplingTransform) -> bool:
        """Distances and rejection sampling need the draft's law; greedy match and shared noise do not."""
        by_distance = effective.relaxation and acceptance_method(effective.relaxation).needs_distances
        return bool(by_distance) or (not transform.greedy and transform.seed is None)

    def plan(self, remaining_tokens: int, num_emitted: int, num_relaxed: int) -> Plan:
        """The next round's rules. ``remaining_tokens`` may still be emitted; ``num_emitted`` were, and
        ``num_relaxed`` of them by relaxation. Never drafts so many that the target's own token would not fit.
        """
        self._planned = False
        cap = min(self.effective.max_draft_tokens, remaining_tokens - 1)
        if self.effective.mode is Mode.OFF or cap < 1 or (self._bypass and not self._bypass.may_draft):
            return PLAIN
        outlook = self._outlook(cap, remaining_tokens, num_emitted, num_relaxed)
        rule = self._drafting.decide(self._drafting_state, outlook)
        if rule.max_tokens < 1:
            return PLAIN
        if self._controller.config.load_aware:
            rule = under_load(rule, outlook)
        may = self._may_run_ahead
        rule = replace(rule, max_tokens=min(rule.max_tokens, cap), row_len=self._row_len, want_runner_ups=may)
        self._planned = True
        return Plan(
            rule,
            self._accept(rule, outlook),
            drafts_ahead=may and drafting_ahead_pays(self._estimates),
            drafts_for_rejection=may and preparing_for_rejection_pays(self._estimates),
        )

    @property
    def _may_run_ahead(self) -> bool:
        """What takes no time need not be done before it is wanted."""
        waits = (*draft_sources.LOOKUPS, draft_sources.SELF)  # the target itself has no time to spare
        return self._controller.config.draft_ahead and self.source not in waits

    def learn(self, round: RoundCompleted) -> None:
        """Take a verdict (not the prefill's) into the request's and the process's state."""
        self._num_rounds += 1
        if round.num_drafted and self.source not in self.sources_used:
            self.sources_used += (self.source,)
        self._rate_source(round)
        self._distortion += round.verdict.distortion
        self._estimates = self._estimates.learn(round)
        if self._bypass:
            self._bypass = self._bypass.learn(round, self._estimates.plain_ms)
        self._drafting_state = self._drafting.learn(self._drafting_state, round)
        if self._acceptance:
            self._acceptance_state = self._acceptance.learn(self._acceptance_state, round)
        self._controller.learn(self.source, self.effective, self._transform, round)

    def _rate_source(self, round: RoundCompleted) -> None:
        """What a round that was to draft says of its source."""
        plain_ms = self._estimates.plain_ms
        if not (self._planned and plain_ms):
            return
        tokens, cost = round.verdict.num_accepted + 1, (round.draft_ms + round.verify_ms) / plain_ms
        self._own, self._own_rounds = self._own.plus(tokens, cost), self._own_rounds + 1
        self._controller.selector.learn(self._task, self.source, tokens, cost)

    @property
    def generation_threshold(self) -> float | None:
        """Entropy ceiling in force, nats; None: there is none."""
        if self.effective.mode is Mode.OFF:
            return None
        ceiling = self._drafting.decide(self._drafting_state, self._any_outlook()).entropy_ceiling
        return ceiling if isfinite(ceiling) else None

    @property
    def acceptance_threshold(self) -> float | None:
        """Largest distance accepted with at least even odds now; None: nothing is relaxed by distance."""
        if self._acceptance is None:
            return None
        params = self._decision(self._any_outlook())
        return None if params is None else self._acceptance.largest_distance(params)

    @property
    def distortion(self) -> float:
        """Total variation that relaxation has cost this answer, expected, summed over its positions."""
        return self._distortion

    def _outlook(self, cap: int, remaining_tokens: int, num_emitted: int, num_relaxed: int) -> RoundOutlook:
        verify = self._estimates.verify_ms.fit()
        return RoundOutlook(
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
            plain_ms=self._estimates.plain_ms,
            exposed=1.0 if self._estimates.exposed.value is None else self._estimates.exposed.value,
        )

    def _any_outlook(self) -> RoundOutlook:
        """For questions about the rules in force, outside of a round."""
        cap = self.effective.max_draft_tokens
        return self._outlook(cap, cap + 1, 0, 0)

    def _decision(self, outlook: RoundOutlook) -> Params | None:
        return self._acceptance.decide(self._acceptance_state, outlook) if self._acceptance else None

    def _accept(self, draft: StopRule, outlook: RoundOutlook) -> AcceptanceRule:
        """Exact, or relaxed within the share of the answer that the request allows."""
        if self._acceptance is None:
            return AcceptanceRule(BLOCK if self.effective.whole_block else TOKEN)
        wants = self._acceptance.needs_distances
        params = self._decision(outlook)
        if params is None:
            return AcceptanceRule(want_distances=wants)
        allowed = floor(self.effective.max_relaxed_fraction * (outlook.num_emitted + draft.max_tokens))
        left = max(0, allowed - outlook.num_relaxed)
        distortion = max(0.0, self.effective.max_distortion - self._distortion)
        return AcceptanceRule(self._acceptance.name, params, left, wants, distortion)
