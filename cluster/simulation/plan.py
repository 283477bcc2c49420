"""The cheapest deployment that holds an objective at a rate, by kind of speculation, and what it costs.

Three kinds are compared: no draft, a draft tier on cards of its own, and a draft on the target's own card, where
both take turns. For each, speeds are measured round by round (``behaviour``). The numbers of replicas that follow
from them are where the search for the cheapest begins, which plays Poisson arrivals answer by answer (``fleet``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import ceil

import numpy as np

from adasd.config import SpeculationConfig
from adasd.errors import ConfigError
from adasd.requests import Mode
from cluster.simulation.arrivals import poisson
from cluster.simulation.behaviour import Behaviour, measure
from cluster.simulation.costs import Card, Pair
from cluster.simulation.fleet import Fleet
from cluster.simulation.objective import Objective
from cluster.simulation.outcome import Figures
from cluster.simulation.texts import Texts
from services.config import OrchestratorConfig, ServeConfig, TierConfig

PLAIN, REMOTE, BESIDE = "no draft", "drafts on cards of their own", "draft on the target's card"
CHECKED_REQUESTS, CHECKED_S = 4000, 180.0
"""A check plays at most so many requests, and at least so many seconds."""
FEWEST_REQUESTS, LOWEST_RATE = 200, 0.01
"""A check plays at least so many requests, which at a lower rate would take too long."""
TRIES = 12
"""How many numbers of targets are tried, each higher by a twentieth or one."""
PER_DRAFT = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Sessions per draft replica that are tried, as far as it has slots."""


@dataclass(frozen=True, slots=True)
class Offer:
    """One deployment that holds the objective; costs in the currency of the cards."""

    kind: str
    targets: int
    drafts: int
    sessions_per_target: float
    capacity: float  # tokens per second of one target at the objective
    cost_per_hour: float
    cost_per_million: float  # tokens
    figures: Figures
    with_spare: float  # cost per hour with one more node of each kind
    lost_target: float  # share of the requests that meet the objective with one target less
    lost_draft: float | None  # the same with one draft less; None: there are no drafts


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a kind cannot hold the objective."""

    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class Speeds:
    """One kind by its sessions per target; a draft tier at its best load."""

    kind: str
    sessions: tuple[int, ...]
    token_ms: tuple[float, ...]  # time per token of a session
    tokens_per_s: tuple[float, ...]  # of the target


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for."""

    rate: float  # requests per second
    objective: Objective
    texts: Texts
    prompt_tokens: int
    seed: int = 0

    @property
    def answer_tokens(self) -> float:
        return float(np.mean(self.texts.lengths))


def plan(
    config: ServeConfig, pair: Pair, wanted: Wanted, on_step: Callable[[str], object] = lambda _: None
) -> tuple[list[Offer | Refused], list[Speeds]]:
    """The best of each kind, and its speeds. ConfigError if none holds the objective."""
    if wanted.rate < LOWEST_RATE:
        raise ConfigError(
            f"a plan needs a rate of {LOWEST_RATE:g} requests per second or more, not {wanted.rate:g}"
        )
    both = [_best(config, its, wanted, kind, on_step) for kind, its in kinds(pair)]
    found, speeds = [one for one, _ in both], [each for _, each in both]
    if not any(isinstance(one, Offer) for one in found):
        reasons = "; ".join(f"{one.kind}: {one.reason}" for one in found if isinstance(one, Refused))
        raise ConfigError(
            f"nothing holds {wanted.objective} ({reasons}); relax the objective or name faster cards"
        )
    return found, speeds


def kinds(pair: Pair) -> Iterator[tuple[str, Pair]]:
    """The pair without its draft, with it, and with the draft on the target's card."""
    yield PLAIN, replace(pair, draft=None)
    if pair.draft is not None:
        yield REMOTE, pair
    if pair.target.beside is not None:
        draft = Card(
            "beside", pair.target.beside, pair.target.num_slots, 0.0, pair.target.start_up_s, is_beside=True
        )
        yield (
            BESIDE,
            replace(pair, draft=draft, service=replace(pair.service, draft_link_ms=pair.service.link_ms)),
        )


def config_of(config: ServeConfig, pair: Pair, targets: int, drafts: int, wanted: Wanted) -> ServeConfig:
    """The configuration with fixed numbers of replicas, and orchestrators that bound nothing."""

    def tier(its: TierConfig, number: int) -> TierConfig:
        return replace(its, min_replicas=number, max_replicas=number)

    speculation = config.speculation if pair.draft is not None else SpeculationConfig(mode=Mode.OFF)
    if (
        pair.draft is not None and pair.draft.is_beside
    ):  # what is drafted ahead would slow the verdict that it waits for
        speculation = replace(speculation, draft_ahead=False)
    return replace(
        config,
        target=tier(config.target, targets),
        draft=tier(config.draft or config.target, max(1, drafts)) if pair.draft is not None else None,
        speculation=speculation,
        orchestrator=OrchestratorConfig(replicas=max(1, ceil(wanted.rate / 20))),
        max_ongoing_requests=1 << 20,
        max_queued_requests=1 << 20,
    )


def _best(
    config: ServeConfig, pair: Pair, wanted: Wanted, kind: str, on_step: Callable[[str], object]
) -> tuple[Offer | Refused, Speeds]:
    on_step(f"{kind}: speeds")
    behaviour = measure(
        config_of(config, pair, 1, 1, wanted), pair, wanted.texts, wanted.prompt_tokens, seed=wanted.seed
    )
    speeds = speeds_of(kind, behaviour)
    found = list(candidates(pair, behaviour, wanted))
    if not found:
        fastest = _token_ms(behaviour, 1, None if not behaviour.per_draft else 1)
        first_ms = _first_ms(pair, behaviour, 1, None if not behaviour.per_draft else 1)
        why = f"a target with one session takes {fastest:.1f} ms per token and {first_ms:.0f} ms to the first one"
        return Refused(kind, why), speeds
    check = _Check(config, pair, behaviour, wanted, lambda what: on_step(f"{kind}: {what}"))
    best = _cheapest(check, found)
    if best is None:
        why = "queues miss the objective even with many more targets than the speeds alone ask for"
        return Refused(kind, why), speeds
    return _offer(check, kind, *best), speeds


def speeds_of(kind: str, behaviour: Behaviour) -> Speeds:
    """The measured cells; a draft tier at the load at which it is fastest, its least."""
    cells = [row[0] for row in behaviour.drafted] if behaviour.per_draft else list(behaviour.plain)
    token_ms = tuple(1e3 / cell.tokens_per_s for cell in cells)
    rates = tuple(num * cell.tokens_per_s for num, cell in zip(behaviour.sessions, cells, strict=True))
    return Speeds(kind, behaviour.sessions, token_ms, rates)


def candidates(pair: Pair, behaviour: Behaviour, wanted: Wanted) -> Iterator[tuple[int, int]]:
    """(targets, drafts) that carry the rate by their mean speeds, for each number of sessions per draft."""
    is_beside = pair.draft is not None and pair.draft.is_beside
    loads: Sequence[int | None] = (None,)
    if behaviour.per_draft and not is_beside:
        assert pair.draft is not None
        most = pair.draft.num_slots
        loads = [number for number in PER_DRAFT if number < most] + [most]
    for per_draft in loads:
        num = sessions_held(pair, behaviour, wanted.objective, per_draft)
        if num is None:
            continue
        at = num if is_beside else per_draft
        seconds = 1e-3 * (
            _first_ms(pair, behaviour, num, at) + wanted.answer_tokens * _token_ms(behaviour, num, at)
        )
        sessions = wanted.rate * seconds
        targets = max(1, ceil(sessions / num))
        if not behaviour.per_draft:
            yield targets, 0
        elif is_beside:
            yield targets, targets
        else:
            assert per_draft is not None
            yield targets, max(1, ceil(sessions / per_draft))


def sessions_held(
    pair: Pair, behaviour: Behaviour, objective: Objective, per_draft: int | None
) -> int | None:
    """The most sessions per target at which the mean answer meets the objective; None: not even one."""
    is_beside = pair.draft is not None and pair.draft.is_beside
    best = None
    for num in range(1, pair.target.num_slots + 1):
        at = num if is_beside else per_draft
        is_fast = _token_ms(behaviour, num, at) <= objective.per_token_ms
        if is_fast and _first_ms(pair, behaviour, num, at) <= objective.first_token_ms:
            best = num
    return best


def _token_ms(behaviour: Behaviour, num_sessions: float, per_draft: float | None) -> float:
    return 1e3 / behaviour.at("tokens_per_s", num_sessions, per_draft)


def _first_ms(pair: Pair, behaviour: Behaviour, num_sessions: float, per_draft: float | None) -> float:
    service = pair.service
    return (
        service.request_ms
        + service.first_ms
        + service.lease_ms
        + behaviour.at("first_ms", num_sessions, per_draft)
    )


@dataclass(slots=True)
class _Check:
    """Poisson arrivals against numbers of replicas, each played once. Beside a target, every one has a draft."""

    config: ServeConfig
    pair: Pair
    behaviour: Behaviour
    wanted: Wanted
    on_step: Callable[[str], object]
    played: dict[tuple[int, int], Figures] = field(default_factory=dict)

    @property
    def is_beside(self) -> bool:
        return self.pair.draft is not None and self.pair.draft.is_beside

    def figures(self, targets: int, drafts: int) -> Figures:
        if (targets, drafts) not in self.played:
            self.on_step(f"{targets} targets, {drafts} drafts")
            its = targets if self.is_beside else drafts
            self.played[targets, drafts] = _play(
                self.config, self.pair, self.behaviour, self.wanted, targets, its
            )
        return self.played[targets, drafts]

    def holds(self, targets: int, drafts: int) -> bool:
        return self.figures(targets, drafts).attainment >= self.wanted.objective.share


def _cheapest(check: _Check, found: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """The cheapest (targets, drafts) that hold the objective, looked for around those that mean speeds ask for.

    For rising numbers of targets, the fewest drafts that do, as far as that is cheaper; None if none holds it.
    """
    pair = check.pair
    target_cost, draft_cost = pair.target.cost_per_hour, pair.draft.cost_per_hour if pair.draft else 0.0
    targets, most = min(targets for targets, _ in found), max(drafts for _, drafts in found)
    most = 0 if check.is_beside or not most else most + most // 2 + 3
    step = max(1, targets // 20)
    while targets > step and check.holds(targets - step, most):
        targets -= step
    best: tuple[int, int] | None = None
    before = max(0, targets - step)
    for _ in range(TRIES):
        if best is not None:
            spare = best[0] * target_cost + best[1] * draft_cost - targets * target_cost
            most = min(most, ceil(spare / draft_cost - 1e-9) - 1) if draft_cost > 0 else 0
            if most < 1:
                break
        if check.holds(targets, most):
            drafts = _fewest(partial(check.holds, targets), min(1, most), most)
            best = _fewest(partial(check.holds, drafts=drafts), before + 1, targets), drafts
        before, targets = targets, targets + max(1, targets // 20)
    return best


def _fewest(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The lowest number that holds; ``high`` does, and more never harms."""
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return high


def _offer(check: _Check, kind: str, targets: int, drafts: int) -> Offer:
    """What these numbers cost and do."""
    pair, behaviour, wanted, is_beside = check.pair, check.behaviour, check.wanted, check.is_beside
    figures = check.figures(targets, drafts)
    draft_cost = pair.draft.cost_per_hour if pair.draft is not None else 0.0
    cost = targets * pair.target.cost_per_hour + drafts * draft_cost
    tokens_per_s = wanted.rate * wanted.answer_tokens
    sessions = (
        wanted.rate * 1e-3 * (figures.first_token_ms[0] + wanted.answer_tokens * figures.per_token_ms[0])
    )
    per_draft = sessions / targets if is_beside else sessions / drafts if drafts else None
    held = (
        sessions_held(
            pair, behaviour, wanted.objective, None if per_draft is None else max(1, round(per_draft))
        )
        or 1
    )
    at = held if is_beside else per_draft
    return Offer(
        kind,
        targets,
        drafts,
        sessions / targets,
        held * behaviour.at("tokens_per_s", held, at),
        cost,
        cost / 3600 / tokens_per_s * 1e6,
        figures,
        cost + pair.target.cost_per_hour + (draft_cost if drafts else 0.0),
        check.figures(targets - 1, drafts).attainment if targets > 1 else 0.0,
        check.figures(targets, drafts - 1).attainment if drafts else None,
    )


def _play(
    config: ServeConfig, pair: Pair, behaviour: Behaviour, wanted: Wanted, targets: int, drafts: int
) -> Figures:
    """Poisson arrivals against these numbers; the first fifth, in which the deployment fills, is left out."""
    chance = np.random.default_rng(wanted.seed)
    seconds = max(CHECKED_S, min(CHECKED_REQUESTS / wanted.rate, 3600.0), FEWEST_REQUESTS / wanted.rate)
    times_s = poisson(wanted.rate, seconds, chance)
    known = np.array(wanted.texts.lengths, dtype=float)
    lengths = known[chance.integers(len(known), size=len(times_s))]
    if pair.draft is not None and drafts < 1:
        pair = replace(pair, draft=None)
    fixed = config_of(config, pair, targets, drafts, wanted)
    outcome = Fleet(fixed, pair, behaviour, wanted.seed).run(
        times_s.tolist(), lengths.tolist(), sample_s=seconds
    )
    return outcome.figures(wanted.objective, begin_s=0.2 * seconds)


@dataclass(frozen=True, slots=True)
class Distance:
    """The cheapest deployment with drafts on cards of their own, by the round trip to them."""

    round_trip_ms: float
    cost_per_million: float | None  # None: the objective is not held


def over_distance(
    config: ServeConfig,
    pair: Pair,
    wanted: Wanted,
    round_trips_ms: Sequence[float],
    on_step: Callable[[str], object],
) -> list[Distance]:
    """What remote drafting costs when the drafts are farther away."""
    found = []
    for round_trip_ms in round_trips_ms:
        its = replace(pair, service=replace(pair.service, draft_link_ms=round_trip_ms / 2))
        on_step(f"drafts {round_trip_ms:g} ms away")
        offer, _ = _best(config, its, wanted, REMOTE, lambda _: None)
        found.append(Distance(round_trip_ms, offer.cost_per_million if isinstance(offer, Offer) else None))
    return found
