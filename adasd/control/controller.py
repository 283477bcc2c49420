"""The controller: methods, their learned state, and the rules of a request's next round.

One ``Controller`` per process and pair of models, used from one thread. It never sees a device or a link.

With a seed, mode ``adaptive`` must give equal output for equal requests, although relaxation and block ends affect
it. So such a request learns only from itself: its methods start from nothing. In mode ``exact`` the output does not
depend on drafting, and every request starts from what the process has learned.

Measurements of drafting are kept per draft source; the time of a verdict without a block is shared by all.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, floor, isfinite
from typing import Any, NamedTuple

from adasd.config import SpeculationConfig
from adasd.control import draft_sources
from adasd.control.bypass import HOPELESS_ROUNDS, Bypass
from adasd.control.draft_choice import NOTHING, OWN_ROUNDS, PLAIN_ROUNDS, Selector, Unused, task_of
from adasd.control.estimators import Estimates, load_of
from adasd.control.load_cap import under_load
from adasd.control.lookahead import drafting_ahead_pays, preparing_for_rejection_pays
from adasd.control.options import EffectiveSpeculation, check_config, check_transform, resolve
from adasd.control.slices import Slices
from adasd.methods.policy import RoundOutlook
from adasd.methods.registry import Method, acceptance_method, drafting_method
from adasd.requests import Mode, SpeculationOptions
from adasd.rounds import BLOCK, TOKEN, AcceptanceRule, Params, RoundCompleted, SamplingTransform, StopRule

__all__ = ["Controller", "EffectiveSpeculation", "Plan", "SessionController"]


@dataclass(frozen=True, slots=True)
class Plan:
    """The rules of one round; ``draft.max_tokens == 0`` makes it a plain round."""

    draft: StopRule
    accept: AcceptanceRule
    drafts_ahead: bool = False  # the draft may continue after the block while the target judges it
    drafts_for_rejection: bool = False  # it may prepare for the block's rejection during that time


class Circumstance(NamedTuple):
    """Requests with the same values learn together; relaxation and temperature change which tokens are accepted."""

    source: str  # of the drafts
    mode: Mode
    temperature: float  # the upper end of a range: 0 (greedy), 0.5, 1, 1.5, ...
    predicted: bool = False  # look-ups draft from the caller's prediction


MAX_METHODS = 64
"""Methods (with parameters) per circumstance whose state is kept; the least recently used is dropped."""


@dataclass(slots=True)
class Shared:
    """What the process has learned from the requests of one circumstance."""

    estimates: Estimates = field(default_factory=Estimates)
    bypass: Bypass = field(default_factory=Bypass)  # of requests that run alone
    slices: dict[int, Slices] = field(default_factory=dict)  # by load, of requests that do not
    states: OrderedDict[Method, Any] = field(default_factory=OrderedDict)

    def slices_at(self, load: int) -> Slices:
        """The slices under this load."""
        known = self.slices.get(load)
        return Slices.before_trials(load, self.bypass.drafts) if known is None else known

    def state(self, method: Method) -> Any:
        """The state of a method."""
        state = self.states.pop(method) if method in self.states else method.start(None)
        self.states[method] = state  # the most recently used one is the last
        if len(self.states) > MAX_METHODS:
            self.states.popitem(last=False)
        return state


class Controller:
    """The state that all requests of one pair of models share.

    It is kept per circumstance, except for the times of verdicts, which all circumstances share. ``num_open`` requests
    have a slot on a target; ``num_running`` of them are past their prompt.
    ``tiers`` are the names of the draft models, the preferred one first.
    """

    def __init__(self, config: SpeculationConfig, tiers: Sequence[str] = (draft_sources.MODEL,)) -> None:
        check_config(config)
        self.config, self.tiers = config, tuple(tiers)
        self.selector = Selector((*self.tiers, *draft_sources.PREFERRED), judged=draft_sources.PREFERRED)
        self._target = Estimates()  # its times of verdicts are shared by all circumstances
        self._shared: dict[Circumstance, Shared] = {}
        self.num_open = self.num_running = 0
        self.load = load_of(0)  # class of ``num_open``

    def opened(self, num: int) -> None:
        """So many more requests are open."""
        self.num_open += num
        self.load = load_of(self.num_open)

    def effective(
        self, options: SpeculationOptions, transform: SamplingTransform | None = None
    ) -> EffectiveSpeculation:
        """Options with the deployment's defaults; InvalidRequest, which names the field, if one cannot be honoured.

        ``transform`` is the request's sampling transform, if it is known already.
        """
        effective = resolve(options, self.config, self.tiers)
        return effective if transform is None else check_transform(options, effective, transform)

    def session(
        self,
        effective: EffectiveSpeculation,
        transform: SamplingTransform,
        prompt: Sequence[int] = (),
        predicted: bool = False,
    ) -> SessionController:
        """The controller of a new request; ``predicted``: the caller predicts its answer."""
        return SessionController(self, effective, transform, prompt, predicted)

    def shared(self, at: Circumstance) -> Shared:
        """The shared state of this circumstance."""
        known = self._shared.get(at)
        if known is None:  # not setdefault: a Shared takes longer to make than all else here
            known = self._shared[at] = Shared()
        known.estimates = self.with_times(known.estimates)
        return known

    def drafts(self, at: Circumstance) -> bool:
        """Whether requests of this circumstance may draft now."""
        known = self.shared(at)
        return known.slices_at(self.load).draft if self.load else known.bypass.may_draft

    def learn(
        self, at: Circumstance, methods: Sequence[Method], may_bypass: bool, round: RoundCompleted
    ) -> None:
        """Update the shared state with a request's round; ``methods`` are those that learn from it."""
        known, load = self.shared(at), self.load
        if may_bypass and load:
            known.slices[load] = known.slices_at(load).learn(round, self.num_running)
        elif may_bypass:
            known.bypass = known.bypass.learn(round, known.estimates.plain_ms(), patience=patience(at.source))
        known.estimates = self._target = known.estimates.learn(round, load)
        for method in methods:
            known.states[method] = method.learn(known.state(method), round)

    def with_times(self, estimates: Estimates) -> Estimates:
        """These estimates with the newest times of the target."""
        return estimates.with_target(self._target)


def patience(source: str) -> int:
    """Vain rounds in a row after which a source is hopeless; look-ups cost next to nothing."""
    return PATIENCE if source in draft_sources.LOOKUPS else HOPELESS_ROUNDS


FAR_BELOW, PATIENCE = 0.5, 4
"""Under load, where times vary widely, a request stops drafting by itself only at this relative loss, or after so many
vain rounds in a row: a mixture of requests that draft and others that do not is slower than either."""


class SessionController:
    """Plans the rounds of one request and learns from them."""

    def __init__(
        self,
        controller: Controller,
        effective: EffectiveSpeculation,
        transform: SamplingTransform,
        prompt: Sequence[int] = (),
        predicted: bool = False,
    ) -> None:
        self.effective, self._predicted = effective, predicted
        self._controller = controller
        self._transform = transform
        self._row_len = controller.config.draft_top_k if self._needs_rows(effective, transform) else 0
        self.isolated = effective.mode is Mode.ADAPTIVE and transform.seed is not None
        self._num_rounds = 0
        self._drafting = drafting_method(effective.drafting)
        self._distortion = 0.0
        self._acceptance = acceptance_method(effective.relaxation) if effective.relaxation else None
        self._exact_rule = AcceptanceRule(BLOCK if effective.whole_block else TOKEN)
        # A block that was drafted ahead may still come in a plain round. It is judged as it would have been in time:
        # when it comes depends on its tokens, so another rule then would show in what is emitted.
        self._plain = Plan(StopRule(0), self._exact_rule)
        self._temperature = ceil(2 * transform.temperature) / 2
        self._task = task_of(prompt, (effective.mode, self._temperature))
        self._failed: set[str] = set()
        self._unused: Mapping[str, Unused] = {}
        self._planned = False  # whether the current round was planned to draft
        self._is_open = self._is_running = False
        self.sources_used: tuple[str, ...] = ()
        self._begin(self._first_source())

    def _begin(self, source: str) -> None:
        """Start from a source's shared state; if isolated, from nothing and without the bypass, which reads times."""
        self.source, self._own = source, NOTHING
        self._own_rounds = 0
        self._at = self._circumstance(source)
        known = Shared() if self.isolated else self._controller.shared(self._at)
        may_bypass = self.effective.may_bypass and not self.isolated
        self._bypass = known.bypass if may_bypass else None  # while it runs alone
        self._own_bypass = Bypass()  # under load
        self._estimates = known.estimates
        self._drafting_state = self._drafting.start(None if self.isolated else known.state(self._drafting))
        self._acceptance_state = None
        if self._acceptance is not None:
            state = None if self.isolated else known.state(self._acceptance)
            self._acceptance_state = self._acceptance.start(state)

    @property
    def _taught(self) -> tuple[Method, ...]:
        """The methods whose shared state learns from this request's rounds.

        Under a seed the acceptance method is left out: shared noise accepts other tokens than rejection sampling.
        """
        if self.effective.mode is Mode.OFF:
            return ()
        if self._acceptance is None or (self._transform.seed is not None and not self._transform.greedy):
            return (self._drafting,)
        return self._drafting, self._acceptance

    @property
    def _estimates_now(self) -> Estimates:
        """The request's estimates, with the target's times of all requests; under load those of its circumstance."""
        if self.isolated:
            return self._estimates
        if self._controller.load:
            return self._controller.shared(self._at).estimates
        self._estimates = self._controller.with_times(self._estimates)
        return self._estimates

    # ----------------------------------------------------------------- the source

    @property
    def chooses(self) -> bool:
        """Whether the controller chooses the source, not the request."""
        return self.effective.draft == draft_sources.AUTO

    def _first_source(self) -> str:
        selector = self._controller.selector
        if not self.chooses:
            return self.effective.draft or selector.candidates[0]
        return selector.candidates[0] if self.isolated else selector.first(self._task, idle=self._idle())

    def _idle(self) -> Collection[str]:
        """The draft models that requests like this one do not use at the moment."""
        if not self.effective.may_bypass:
            return ()
        return [
            name for name in self._controller.tiers if not self._controller.drafts(self._circumstance(name))
        ]

    def _circumstance(self, source: str) -> Circumstance:
        """Where this request learns while its drafts are of this source."""
        return Circumstance(source, self.effective.mode, self._temperature, self._predicted)

    def reconsider_source(self, remaining_tokens: int) -> str | None:
        """A source that would be clearly faster for the rest of the answer; None to keep the current one."""
        enough = OWN_ROUNDS if self._planned else PLAIN_ROUNDS
        if not self.chooses or self.isolated or self._own_rounds < enough:
            return None
        self._own_rounds = 0  # reconsider after as many rounds again
        plain = 0.0 if self._bypass is None else 1.0  # the bypass sees to it
        return self._controller.selector.better(
            self._task, self.source, self._own, remaining_tokens, self._failed, at_least=plain
        )

    def use(self, source: str) -> None:
        """Blocks now come from this source."""
        self._failed.discard(source)
        if source != self.source:
            self._begin(source)

    def source_failed(self, source: str) -> str:
        """The source to try next: another one if the controller chooses."""
        self._failed.add(source)
        if not self.chooses or self.isolated:
            return source
        if self._failed.issuperset(self._controller.selector.candidates):
            self._failed = {source}
        return self._controller.selector.first(self._task, self._failed)

    def attached(self, source: str, took_ms: float) -> None:
        """Learn how long it took to attach a source."""
        plain_ms = self._plain_ms
        if plain_ms:
            self._controller.selector.attached(source, took_ms / plain_ms)

    # ----------------------------------------------------------------- rounds

    def slot_granted(self) -> None:
        """The target has room for the request; later calls do nothing."""
        if not self._is_open:
            self._is_open = True
            self._controller.opened(1)

    def prompt_was_read(self) -> None:
        """The request's rounds begin; later calls do nothing."""
        self.slot_granted()
        if not self._is_running:
            self._is_running = True
            self._controller.num_running += 1

    def end(self) -> None:
        """The request is over; later calls do nothing."""
        if self._is_open:
            self._is_open = False
            self._controller.opened(-1)
        if self._is_running:
            self._is_running = False
            self._controller.num_running -= 1

    @property
    def _plain_ms(self) -> float | None:
        """Wall time of a plain token under the current load; None until measured."""
        return self._estimates_now.plain_ms(self._controller.load)

    @property
    def _slices(self) -> Slices | None:
        """What all requests of this circumstance do together; None if this one runs alone, or always drafts."""
        if self._bypass is None or not self._controller.load:
            return None
        return self._controller.shared(self._at).slices_at(self._controller.load)

    @property
    def _may_draft(self) -> bool:
        if (slices := self._slices) is not None:
            return slices.draft and self._own_bypass.may_draft
        return self._bypass is None or self._bypass.may_draft

    @staticmethod
    def _needs_rows(effective: EffectiveSpeculation, transform: SamplingTransform) -> bool:
        """Distances and rejection sampling need the draft's distribution; greedy match and shared noise do not."""
        by_distance = effective.relaxation and acceptance_method(effective.relaxation).needs_distances
        return bool(by_distance) or (not transform.greedy and transform.seed is None)

    def plan(self, remaining_tokens: int, num_emitted: int, num_relaxed: int) -> Plan:
        """The next round's rules. ``remaining_tokens`` may still be emitted; ``num_emitted`` were, ``num_relaxed`` of
        them by relaxation. A block always leaves room for the target's own token.
        """
        self._planned = False
        cap = min(self.effective.max_draft_tokens, remaining_tokens - 1)
        if (
            self._bypass is not None
            and not self._controller.load
            and self.source not in draft_sources.LOOKUPS
        ):
            cap = min(cap, self._bypass.cap(cap))  # look-ups cost next to nothing
        if self.effective.mode is Mode.OFF or cap < 1 or not self._may_draft:
            return self._plain
        outlook = self._outlook(cap, remaining_tokens, num_emitted, num_relaxed)
        rule = self._drafting.decide(self._drafting_state, outlook)
        if rule.max_tokens < 1:
            return self._plain
        if self._controller.config.load_aware:
            rule = under_load(rule, outlook)
        may = self._may_run_ahead
        rule = replace(rule, max_tokens=min(rule.max_tokens, cap), row_len=self._row_len, want_runner_ups=may)
        self._planned = True
        return Plan(
            rule,
            self._accept(rule, outlook),
            drafts_ahead=may and drafting_ahead_pays(self._estimates_now),
            drafts_for_rejection=may and preparing_for_rejection_pays(self._estimates_now),
        )

    def _cost_of(self, round: RoundCompleted) -> float:
        """Total variation from relaxation. Greedy and seeded requests count emitted tokens; others, what was judged."""
        if self._transform.greedy or self._transform.seed is not None:
            return float(sum(round.verdict.relaxed[: round.num_emitted]))
        return round.verdict.distortion

    @property
    def _may_run_ahead(self) -> bool:
        """Whether the source may draft ahead: look-ups take no time, and ``self`` would need the busy target."""
        waits = (*draft_sources.LOOKUPS, draft_sources.SELF)
        return self._controller.config.draft_ahead and self.source not in waits

    def learn(self, round: RoundCompleted) -> None:
        """Update the request's and the process's state with a round (not with the prefill)."""
        self._num_rounds += 1
        if self.effective.mode is Mode.OFF:
            self._controller.learn(self._at, (), False, round)
            return
        if round.num_drafted and self.source not in self.sources_used:
            self.sources_used += (self.source,)
        self._rate_source(round)
        self._distortion += self._cost_of(round)
        if self.isolated or (round.num_drafted and not self._controller.load):  # else see ``_estimates_now``
            self._estimates = self._estimates.learn(round, self._controller.load)
        if (slices := self._slices) is not None:
            plain_ms = slices.plain_ms(self._controller.num_running) or self._plain_ms
            self._own_bypass = self._own_bypass.learn(round, plain_ms, FAR_BELOW, PATIENCE)
        elif self._bypass:
            self._bypass = self._bypass.learn(round, self._plain_ms, patience=patience(self.source))
        self._drafting_state = self._drafting.learn(self._drafting_state, round)
        taught = self._taught
        if self._acceptance and round.num_drafted:
            self._acceptance_state = self._acceptance.learn(self._acceptance_state, round)
        elif self._acceptance:  # a plain round judges nothing
            taught = (self._drafting,)
        self._controller.learn(self._at, taught, self._bypass is not None, round)

    def judge_unused(self, sources: Mapping[str, Unused]) -> None:
        """Judge these sources on the answer, too, if the controller chooses the source."""
        self._unused = sources

    def wrote(self, tokens: Sequence[int]) -> None:
        """What the target wrote next: count what the unused sources would have yielded."""
        plain_ms, fitted = self._plain_ms, self._estimates_now.verify_ms.fit()
        for name, source in self._unused.items():
            done = source.follow(tokens)
            if done.rounds and name != self.source and plain_ms and fitted:
                cost = done.rounds + done.drafted * fitted[1] / plain_ms
                self._controller.selector.learn(self._task, name, done.tokens, cost, used=False)

    def _rate_source(self, round: RoundCompleted) -> None:
        """Count a round that was planned to draft in its source's yield."""
        if self._unused:
            drafted = round.drafted.tokens if round.drafted is not None else ()
            self.wrote((*drafted[: round.verdict.num_accepted], round.verdict.next_token))
        plain_ms = self._plain_ms
        if self._predicted or not plain_ms:
            return  # what a prediction yields says nothing about the source without one
        if not self._planned:  # so the answer was decoded plainly
            self._own, self._own_rounds = self._own.plus(1.0, 1.0), self._own_rounds + 1
            return
        tokens = round.verdict.num_accepted + 1
        cost = (round.draft_ms + round.verify_ms + round.overhead_ms) / plain_ms
        self._own, self._own_rounds = self._own.plus(tokens, cost), self._own_rounds + 1
        self._controller.selector.learn(self._task, self.source, tokens, cost)

    @property
    def generation_threshold(self) -> float | None:
        """Current entropy ceiling, nats; None: there is none."""
        if self.effective.mode is Mode.OFF:
            return None
        ceiling = self._drafting.decide(self._drafting_state, self._any_outlook()).entropy_ceiling
        return ceiling if isfinite(ceiling) else None

    @property
    def acceptance_threshold(self) -> float | None:
        """Largest distance now accepted with a chance of at least 1/2; None: nothing is relaxed by distance."""
        if self._acceptance is None:
            return None
        params = self._decision(self._any_outlook())
        return None if params is None else self._acceptance.largest_distance(params)

    @property
    def distortion(self) -> float:
        """Expected total variation from relaxation so far, summed over the answer's positions."""
        return self._distortion

    def _outlook(self, cap: int, remaining_tokens: int, num_emitted: int, num_relaxed: int) -> RoundOutlook:
        estimates = self._estimates_now
        verify = estimates.verify_ms.fit()
        return RoundOutlook(
            max_draft_tokens=cap,
            remaining_tokens=remaining_tokens,
            num_emitted=num_emitted,
            num_relaxed=num_relaxed,
            max_relaxed_fraction=self.effective.max_relaxed_fraction,
            num_rounds=self._num_rounds,
            survival=estimates.survival.curve(cap),
            draft_ms=estimates.draft_ms.value,
            hop_ms=estimates.hop_ms.value,
            verify_ms=verify[0] + (estimates.block_extra_ms.value or 0.0) if verify else None,
            verify_ms_per_token=verify[1] if verify else 0.0,
            mean_block=estimates.length.value,
            batch_size=estimates.batch_size.value or 1.0,
            cost=estimates.cost,
            wait_ms=estimates.wait_ms.value or 0.0,
            queue_ms=estimates.queue_ms.value,
            plain_ms=estimates.plain_ms(self._controller.load),
            may_bypass=self._controller.config.bypass and not self._controller.load,  # then slices decide
            exposed=1.0 if estimates.exposed.value is None else estimates.exposed.value,
        )

    def _any_outlook(self) -> RoundOutlook:
        """An outlook for reading the current rules outside of a round."""
        cap = self.effective.max_draft_tokens
        return self._outlook(cap, cap + 1, 0, 0)

    def _decision(self, outlook: RoundOutlook) -> Params | None:
        return self._acceptance.decide(self._acceptance_state, outlook) if self._acceptance else None

    def _accept(self, draft: StopRule, outlook: RoundOutlook) -> AcceptanceRule:
        """The acceptance rule: exact, or relaxed within the request's budgets."""
        if self._acceptance is None:
            return self._exact_rule
        wants = self._acceptance.needs_distances
        params = self._decision(outlook)
        if params is None:
            return AcceptanceRule(want_distances=wants)
        left = relaxations_left(self.effective.max_relaxed_fraction, outlook, draft.max_tokens)
        distortion = max(0.0, self.effective.max_distortion - self._distortion)
        return AcceptanceRule(self._acceptance.name, params, left, wants, distortion)


def relaxations_left(fraction: float, outlook: RoundOutlook, max_tokens: int) -> int:
    """Most tokens that the next verdict may relax, so that no more than ``fraction`` of the answer is ever relaxed.

    A relaxed token is emitted, too: r + b <= fraction (n + b) for b more of them, wherever the answer ends.
    """
    if fraction == 1:
        return max_tokens
    left = (fraction * outlook.num_emitted - outlook.num_relaxed) / (1 - fraction)
    return max(0, min(max_tokens, floor(left + 1e-9)))
