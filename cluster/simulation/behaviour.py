"""How fast sessions go on one target, by its sessions and by the sessions of each draft: measured by ``rounds``.

Each cell is a short simulation of every round, in which a fixed number of sessions ask one request after another.
Between cells, rates are interpolated linearly over the logarithms of both numbers. ``fleet`` uses the table for
deployments that are too large to follow round by round.
"""

from __future__ import annotations

import asyncio
import math
import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from adasd.config import SpeculationConfig
from adasd.errors import ConfigError
from adasd.requests import Mode
from adasd.rounds import RoundCompleted
from cluster.simulation import virtual_time
from cluster.simulation.costs import Pair
from cluster.simulation.rounds import Deployment
from cluster.simulation.texts import Texts
from cluster.simulation.virtual_time import now_s
from services.config import OrchestratorConfig, ServeConfig, TierConfig

ROUNDS, WARM_UP = 600, 200
"""Rounds of a cell that are counted, and those before them, from which the controller learns."""
SHORT = 24
"""Tokens of the longest answer of the warm-up."""
SPREAD_ROUNDS = 6
"""Rounds from which on a session tells how answers differ."""
PER_DRAFT = (1, 8, 64, 512)
"""Sessions per draft replica of the cells, as far as the draft has slots."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One steady state. Times in milliseconds."""

    tokens_per_s: float  # of one session, behind its first token
    first_ms: float  # from the leased slot to the first token
    step_ms: float  # mean pass of the target
    draft_step_ms: float
    draft_wait: float  # as in cluster.scaling.Reading
    optimistic: float
    calls_per_token: float  # draft and verify calls
    spread: tuple[float, ...]  # per answer: its time per token over the mean


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Cells by sessions per target and sessions per draft; and without a draft."""

    sessions: tuple[int, ...]
    per_draft: tuple[int, ...]  # empty: there is no draft
    drafted: tuple[tuple[Cell, ...], ...]  # [sessions][per_draft]
    plain: tuple[Cell, ...]  # [sessions]

    def at(self, field: str, num_sessions: float, per_draft: float | None) -> float:
        """A field of the steady state; ``per_draft`` None: without a draft."""
        places = [(row, weight) for row, weight in between(self.sessions, num_sessions)]
        if per_draft is None or not self.per_draft:
            cells = [(self.plain[row], weight) for row, weight in places]
        else:
            cells = [
                (self.drafted[row][column], one * other)
                for row, one in places
                for column, other in between(self.per_draft, per_draft)
            ]
        if field == "tokens_per_s":
            return math.exp(sum(weight * math.log(getattr(cell, field)) for cell, weight in cells))
        return float(sum(weight * getattr(cell, field) for cell, weight in cells))


def between(points: Sequence[int], value: float) -> list[tuple[int, float]]:
    """The neighbouring places of a value, and their weights by logarithm; at the ends, the end itself."""
    above = bisect_right(points, value)
    if above == 0 or above == len(points):
        return [(max(0, above - 1), 1.0)]
    low, high = points[above - 1], points[above]
    weight = math.log(value / low) / math.log(high / low)
    return [(above - 1, 1.0 - weight), (above, weight)]


def measure(
    config: ServeConfig,
    pair: Pair,
    texts: Texts,
    prompt_len: int,
    *,
    seed: int = 0,
    on_cell: Callable[[], object] = lambda: None,
) -> Behaviour:
    """All cells of a configuration. ConfigError if answers have but one token: speeds are of the others."""
    if max(texts.lengths) < 2:
        raise ConfigError("answers of one token have no speed per token; give them two or more")
    sessions = grid(pair.target.num_slots)
    plain = tuple(_cell(config, pair, texts, prompt_len, number, None, seed, on_cell) for number in sessions)
    if pair.draft is None or config.draft is None or config.speculation.mode is Mode.OFF:
        return Behaviour(sessions, (), (), plain)
    if pair.draft.is_beside:  # every target has a draft of its own
        own = tuple(
            (_cell(config, pair, texts, prompt_len, number, number, seed, on_cell),) for number in sessions
        )
        return Behaviour(sessions, (1,), own, plain)
    most = pair.draft.num_slots
    per_draft = tuple(dict.fromkeys((*(number for number in PER_DRAFT if number < most), most)))
    drafted = tuple(
        tuple(_cell(config, pair, texts, prompt_len, number, each, seed, on_cell) for each in per_draft)
        for number in sessions
    )
    return Behaviour(sessions, per_draft, drafted, plain)


def grid(num_slots: int) -> tuple[int, ...]:
    """1, 4, then powers of two, and the number itself."""
    return tuple(
        dict.fromkeys((*(n for n in (1, 4, *(2**i for i in range(3, 20))) if n < num_slots), num_slots))
    )


def num_cells(config: ServeConfig, pair: Pair) -> int:
    """Cells that ``measure`` simulates."""
    rows = len(grid(pair.target.num_slots))
    if pair.draft is None or config.draft is None or config.speculation.mode is Mode.OFF:
        return rows
    if pair.draft.is_beside:
        return 2 * rows
    most = pair.draft.num_slots
    return rows * (1 + len(dict.fromkeys((*(number for number in PER_DRAFT if number < most), most))))


def _cell(
    config: ServeConfig,
    pair: Pair,
    texts: Texts,
    prompt_len: int,
    num_sessions: int,
    per_draft: int | None,
    seed: int,
    on_cell: Callable[[], object],
) -> Cell:
    """``num_sessions`` on each target and ``per_draft`` on each draft, as near as whole replicas allow.

    With drafts, every round drafts: whether that pays is what the cells are compared for, and requests take minutes to
    find out.
    """
    num_targets, num_drafts = 1, 0
    if per_draft is not None:
        num_targets = max(1, round(per_draft / num_sessions))
        num_drafts = max(1, round(num_targets * num_sessions / per_draft))
    total = num_targets * num_sessions

    def tier(its: TierConfig, number: int) -> TierConfig:
        return replace(its, min_replicas=number, max_replicas=number)

    steady = replace(
        config,
        target=tier(config.target, num_targets),
        draft=tier(config.draft, num_drafts) if config.draft is not None and num_drafts else None,
        orchestrator=OrchestratorConfig(replicas=total),  # their queues are the fleet's concern
        speculation=replace(config.speculation, bypass=False)
        if num_drafts
        else SpeculationConfig(mode=Mode.OFF),
    )
    its = replace(
        pair,
        target=replace(pair.target, num_slots=num_sessions),
        draft=pair.draft if num_drafts else None,
        service=replace(
            pair.service, request_ms=0.0, ending_ms=0.0, first_ms=0.0, lease_ms=0.0, elsewhere_ms=0.0
        ),
    )
    found = virtual_time.run(_steady(steady, its, texts, prompt_len, total, seed))
    on_cell()
    return found


async def _steady(
    config: ServeConfig, pair: Pair, texts: Texts, prompt_len: int, num_sessions: int, seed: int
) -> Cell:
    """Every session asks again at once, until enough rounds were counted.

    Before that, each has a short answer, from which the controller learns, and one that is cut at a random length, so
    that prompts do not all come at the same time.
    """
    count, enough = _Counts(), asyncio.Event()

    def seen(done: RoundCompleted) -> None:
        count.add(done, now_s())
        if count.began_s is None and count.num_rounds >= WARM_UP and count.num_prefilled >= 2 * num_sessions:
            count.begin(now_s())
            for tier in filter(None, (deployment.target, deployment.draft)):
                for worker in tier.workers:
                    worker.load()  # the meter counts from here on
        if count.began_s is not None and count.num_counted >= max(ROUNDS, 4 * num_sessions):
            enough.set()

    deployment = Deployment(config, pair, seed, seen)
    chance = random.Random(seed)

    async def session() -> None:
        for longest in (SHORT, None):
            text = texts.draw(chance, prompt_len, None)
            await deployment.ask(
                text.cut(1 + chance.randrange(min(longest or text.num_tokens, text.num_tokens)))
            )
        while True:
            await deployment.ask(texts.draw(chance, prompt_len, None))

    asking = [asyncio.ensure_future(session()) for _ in range(num_sessions)]
    waiting = asyncio.ensure_future(enough.wait())
    _done, _ = await asyncio.wait({waiting, *asking}, return_when=asyncio.FIRST_COMPLETED)
    tiers = (("target", deployment.target), ("draft", deployment.draft))
    reports = {role: [w.load() for w in tier.workers] if tier is not None else [] for role, tier in tiers}
    for task in asking:
        task.cancel()
    ended = await asyncio.gather(*asking, return_exceptions=True)
    for error in ended:
        if isinstance(error, Exception):
            raise error
    return count.summary(reports, deployment)


@dataclass(slots=True)
class _Counts:
    """Rounds since the warm-up, and the time between the verdicts of each session."""

    num_rounds: int = 0
    num_prefilled: int = 0
    num_calls: int = 0
    num_counted: int = 0
    began_s: float | None = None
    newest_s: dict[str, float] = field(default_factory=dict)  # by lease: when its newest verdict came
    totals: dict[str, list[float]] = field(default_factory=dict)  # by lease: rounds, tokens, seconds

    def begin(self, at_s: float) -> None:
        self.began_s = at_s
        self.totals.clear()

    def add(self, done: RoundCompleted, at_s: float) -> None:
        session = done.verdict.session
        before_s, self.newest_s[session] = self.newest_s.get(session), at_s
        self.num_prefilled += done.prefill
        if done.prefill:
            return
        self.num_rounds += 1
        if self.began_s is not None and before_s is not None:
            self.num_counted += 1
            self.num_calls += 1 + (done.num_drafted > 0)
            total = self.totals.setdefault(session, [0.0, 0.0, 0.0])
            for place, value in enumerate((1.0, done.num_emitted or 0, at_s - before_s)):
                total[place] += value

    def summary(self, reports: dict[str, list[dict[str, float]]], deployment: Deployment) -> Cell:
        assert self.began_s is not None
        num_tokens = sum(tokens for _, tokens, _ in self.totals.values())
        mean_s = sum(seconds for _, _, seconds in self.totals.values()) / num_tokens
        spread = [
            seconds / tokens / mean_s
            for rounds, tokens, seconds in self.totals.values()
            if rounds >= SPREAD_ROUNDS
        ]
        weight = sum(spread) / len(spread) if spread else 1.0

        def reported(role: str, name: str) -> float:
            return sum(report[name] for report in reports[role]) / max(1, len(reports[role]))

        return Cell(
            tokens_per_s=1.0 / mean_s,
            first_ms=deployment.first_ms_since(self.began_s),
            step_ms=reported("target", "step_ms"),
            draft_step_ms=reported("draft", "step_ms"),
            draft_wait=reported("draft", "wait"),
            optimistic=reported("draft", "optimistic"),
            calls_per_token=self.num_calls / num_tokens,
            spread=tuple(each / weight for each in spread) or (1.0,),
        )
