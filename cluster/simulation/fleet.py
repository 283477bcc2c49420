"""Any number of replicas, answer by answer: sessions share their target's speed, as measured round by round.

Real: the scaling decision (cluster.scaling), the bounds of admission and of the queue. Taken from ``behaviour``: the
speed of a session, the time to its first token, the load figures that the scaling policy reads. Mean field: every
session sees the mean load of the draft tier. An answer is work of so many tokens, scaled by a factor drawn from the
answers of the measured cells; a target gives every one of its sessions the same speed, which changes with their number.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from math import ceil, inf

from adasd.requests import Mode
from cluster.scaling import Pace
from cluster.simulation.behaviour import Behaviour
from cluster.simulation.costs import Pair
from cluster.simulation.outcome import DONE, LATE, NEVER, REFUSED, Answers, Outcome, Sample
from cluster.simulation.scaler import Load, Scaler
from services.config import ServeConfig, TierConfig

TICK_S = 0.5
LEVEL = 0.04
"""Relative change of the drafts' load from which on every speed is computed anew."""


@dataclass(frozen=True, slots=True)
class Incident:
    """A share of a tier's replicas dies at ``at_s``, and their hardware is back at ``until_s``."""

    at_s: float
    role: str  # draft | target
    share: float  # of the replicas that run
    until_s: float


@dataclass(slots=True)
class Request:
    """One answer on its way."""

    arrived_s: float
    num_tokens: float
    first_s: float = NEVER
    left: float | None = None  # work that a lost target had not done; None: it never had one


class Target:
    """One replica: its sessions, and the work done for each since the start (tokens)."""

    __slots__ = ("is_draining", "place", "rate", "sessions", "since_s", "version", "work")

    def __init__(self, now_s: float) -> None:
        self.sessions: list[tuple[float, int, Request]] = []  # heap: the work at which it ends
        self.work, self.since_s, self.rate = 0.0, now_s, 0.0
        self.version, self.is_draining, self.place = 0, False, -1


class Tier:
    """Counts of one tier's replicas, started and removed as the policy decides."""

    def __init__(self, role: str, config: TierConfig, num_slots: int, start_up_s: float) -> None:
        pace = Pace(config.min_replicas, config.max_replicas, down_after_s=config.down_after_s)
        self.scaler = Scaler(role, pace, num_slots, max(1, config.min_replicas))
        self.running = self.scaler.wanted
        self.starting: list[float] = []
        self.start_up_s, self.num_slots = start_up_s, num_slots
        self.max_replicas, self.gone = config.max_replicas, 0  # replicas whose hardware is away

    def decide(self, now_s: float, load: Load) -> tuple[int, int]:
        """One decision. Returns (replicas that now serve, replicas to remove)."""
        ready = sum(start_s <= now_s for start_s in self.starting)
        self.starting = [start_s for start_s in self.starting if start_s > now_s]
        self.running += ready
        wanted = self.scaler.decide(now_s, self.running, load)
        room = max(0, self.max_replicas - self.gone)
        missing = min(wanted, room) - self.running - len(self.starting)
        if missing > 0:
            self.starting += [now_s + self.start_up_s] * missing
        elif missing < 0:
            del self.starting[max(0, len(self.starting) + missing) :]
        surplus = max(0, self.running - wanted)
        self.running -= surplus
        return ready, surplus


class Fleet:
    """One deployment. ``run`` plays a load against it, once."""

    def __init__(self, config: ServeConfig, pair: Pair, behaviour: Behaviour, seed: int = 0) -> None:
        self.config, self.pair, self.behaviour = config, pair, behaviour
        self._chance = random.Random(seed)
        self._target = Tier("target", config.target, pair.target.num_slots, pair.target.start_up_s)
        self._draft: Tier | None = None
        if behaviour.per_draft and config.draft is not None and pair.draft is not None:
            self._draft = Tier("draft", config.draft, pair.draft.num_slots, pair.draft.start_up_s)
        self._targets: list[Target] = []
        self._free: list[Target] = []  # with a free slot, in any order
        self._waiting: deque[Request] = deque()
        self._events: list[tuple[float, int, int, Target]] = []
        self._number = 0
        self._num_sessions = 0
        self._level: float | None = None  # sessions per draft that the speeds were computed for
        self._rates: list[float] = []
        self._first_s: list[float] = []
        self._steps: list[float] = []
        self._step_sum = 0.0
        self._calls_per_token = 0.0
        self._work, self._need, self._granted = 0.0, 0.0, 0.0
        self._spread = [factor for row in behaviour.drafted for cell in row for factor in cell.spread] or [
            factor for cell in behaviour.plain for factor in cell.spread
        ]
        self.answers, self.samples = Answers(), list[Sample]()
        replicas = config.orchestrator.replicas
        self._most_waiting = config.queue_len * replicas
        self._most_running = (config.max_ongoing_requests + config.queue_len) * replicas

    def run(
        self,
        times_s: Sequence[float],
        num_tokens: Sequence[float],
        *,
        incidents: Sequence[Incident] = (),
        sample_s: float = 1.0,
        rest_s: float = 0.0,
    ) -> Outcome:
        """A request at each of ``times_s`` (rising) with so many tokens; then ``rest_s`` seconds without any."""
        for _ in range(self._target.running):
            self._add(0.0)
        self._new_level(0.0)
        service = self.pair.service
        before_s = 1e-3 * (service.request_ms + service.first_ms)
        last_s = (times_s[-1] if len(times_s) else 0.0) + rest_s
        happenings = sorted(
            [(one.at_s, 0, one) for one in incidents] + [(one.until_s, 1, one) for one in incidents],
            key=lambda each: each[:2],
        )
        lost: dict[int, int] = {}
        next_tick_s, next_sample_s, at, num = 0.0, 0.0, 0, len(times_s)
        events = self._events
        while True:
            arrival_s = times_s[at] if at < num else inf
            event_s = events[0][0] if events else inf
            thing_s = happenings[0][0] if happenings else inf
            now_s = min(arrival_s, event_s, next_tick_s, thing_s)
            if at >= num and not self._num_sessions and not self._waiting and now_s > last_s:
                break
            if now_s == next_tick_s:
                if now_s >= next_sample_s - 1e-9:
                    self._sample(now_s)
                    next_sample_s += sample_s
                self._tick(now_s)
                next_tick_s += TICK_S
            elif now_s == thing_s:
                _, kind, incident = happenings.pop(0)
                self._strike(now_s, incident, lost) if kind == 0 else self._heal(incident, lost)
            elif now_s == event_s:
                _, _, version, target = heappop(events)
                if version == target.version:
                    self._finish(target, now_s)
            else:
                self._arrive(Request(arrival_s, num_tokens[at]), arrival_s + before_s)
                at += 1
        return Outcome(
            self.answers, self.samples, max(last_s, now_s if now_s < inf else last_s), self._notes(last_s)
        )

    def _notes(self, seconds: float) -> dict[str, float]:
        service = self.pair.service
        tokens = sum(self.answers.num_tokens)
        cpu_s = 1e-3 * len(self.answers) * (service.request_ms + service.ending_ms)
        cpu_s += 1e-3 * service.call_ms * tokens * self._calls_per_token
        return {"orchestrator_cores": cpu_s / max(1e-9, seconds)}

    # ----------------------------------------------------------------- requests

    def _arrive(self, request: Request, now_s: float) -> None:
        if self._free and not self._waiting:
            return self._grant(request, now_s)
        if (
            len(self._waiting) >= self._most_waiting
            or self._num_sessions + len(self._waiting) >= self._most_running
        ):
            self.answers.add(request.arrived_s, NEVER, now_s, 0, REFUSED)
            return
        self._waiting.append(request)

    def _grant(self, request: Request, now_s: float) -> None:
        """A slot of the emptier of two random targets; the first token and the rest of the answer follow."""
        free, chance = self._free, self._chance.random
        target = free[int(chance() * len(free))]
        other = free[int(chance() * len(free))]
        if len(other.sessions) < len(target.sessions):
            target = other
        self._advance(target, now_s)
        num = len(target.sessions) + 1
        first_s = 1e-3 * self.pair.service.lease_ms + self._first_s[num]
        if request.first_s != request.first_s:
            request.first_s = now_s + first_s
        factor = self._spread[int(chance() * len(self._spread))]
        left = request.left if request.left is not None else max(0.0, request.num_tokens - 1) * factor
        need = left + first_s * self._rates[num]
        self._need += need
        self._granted += left / factor if request.left is None else 0.0
        self._number += 1
        heappush(target.sessions, (target.work + need, self._number, request))
        self._num_sessions += 1
        self._changed(target, now_s, num - 1)
        if num >= self._target.num_slots:
            self._not_free(target)

    def _finish(self, target: Target, now_s: float) -> None:
        self._advance(target, now_s)
        num = len(target.sessions)
        _, _, request = heappop(target.sessions)
        self._num_sessions -= 1
        self.answers.add(
            request.arrived_s, request.first_s, max(now_s, request.first_s), request.num_tokens, DONE
        )
        self._changed(target, now_s, num)
        if target.is_draining:
            if not target.sessions:
                self._remove(target)
            return
        if target.place < 0:
            self._is_free(target)
        self._serve_waiting(now_s)

    def _serve_waiting(self, now_s: float) -> None:
        timeout_s = self.config.admission_timeout_s
        while self._waiting and self._free:
            request = self._waiting.popleft()
            if request.left is None and now_s - request.arrived_s > timeout_s:
                self.answers.add(request.arrived_s, NEVER, request.arrived_s + timeout_s, 0, LATE)
            else:
                self._grant(request, now_s)

    def _expire(self, now_s: float) -> None:
        timeout_s = self.config.admission_timeout_s
        while (
            self._waiting and self._waiting[0].left is None and now_s - self._waiting[0].arrived_s > timeout_s
        ):
            request = self._waiting.popleft()
            self.answers.add(request.arrived_s, NEVER, request.arrived_s + timeout_s, 0, LATE)

    # ----------------------------------------------------------------- one target

    def _advance(self, target: Target, now_s: float) -> None:
        done = (now_s - target.since_s) * target.rate
        target.work += done
        self._work += done * len(target.sessions)
        target.since_s = now_s

    def _changed(self, target: Target, now_s: float, num_before: int) -> None:
        """The number of its sessions changed: another speed, another next end."""
        num = len(target.sessions)
        self._step_sum += self._steps[num] - self._steps[num_before]
        self._arm(target, now_s)

    def _arm(self, target: Target, now_s: float) -> None:
        num = len(target.sessions)
        target.rate = self._rates[num]
        target.version += 1
        if num:
            at_s = now_s + max(0.0, target.sessions[0][0] - target.work) / target.rate
            self._number += 1
            heappush(self._events, (at_s, self._number, target.version, target))

    def _add(self, now_s: float) -> None:
        target = Target(now_s)
        self._targets.append(target)
        if self._steps:
            self._step_sum += self._steps[0]
        self._is_free(target)

    def _remove(self, target: Target) -> None:
        self._targets.remove(target)
        self._step_sum -= self._steps[len(target.sessions)]
        target.version += 1
        self._not_free(target)

    def _is_free(self, target: Target) -> None:
        target.place = len(self._free)
        self._free.append(target)

    def _not_free(self, target: Target) -> None:
        if target.place >= 0:
            last = self._free.pop()
            if last is not target:
                self._free[target.place], last.place = last, target.place
            target.place = -1

    # ----------------------------------------------------------------- the tiers

    def _per_draft(self) -> float | None:
        """Sessions per draft replica; None: there is none."""
        if self._draft is None or not self._draft.running:
            return None
        return max(1.0, min(self._num_sessions / self._draft.running, float(self._draft.num_slots)))

    def _drafted_share(self) -> float:
        """Share of the sessions that have a draft slot."""
        if self._draft is None or not self._draft.running:
            return 0.0
        return min(1.0, self._draft.running * self._draft.num_slots / max(1, self._num_sessions))

    def _new_level(self, now_s: float) -> None:
        """Compute all speeds for the present load of the drafts."""
        self._level, share, per_draft = self._key(), self._drafted_share(), self._per_draft()
        self._rates, self._first_s, self._steps = [0.0], [0.0], [self.behaviour.at("step_ms", 1, None)]
        for num in range(1, self._target.num_slots + 1):
            mixed = {
                name: share * self.behaviour.at(name, num, per_draft)
                + (1 - share) * self.behaviour.at(name, num, None)
                for name in ("tokens_per_s", "first_ms", "step_ms")
            }
            self._rates.append(mixed["tokens_per_s"])
            self._first_s.append(1e-3 * mixed["first_ms"])
            self._steps.append(mixed["step_ms"])
        middle = max(1.0, self._num_sessions / max(1, len(self._targets)))
        self._calls_per_token = self.behaviour.at("calls_per_token", middle, per_draft if share else None)
        self._step_sum = 0.0
        for target in self._targets:
            self._advance(target, now_s)
            self._step_sum += self._steps[len(target.sessions)]
            self._arm(target, now_s)

    def _key(self) -> float:
        """What the speeds depend on, as one number: sessions per draft, counting those that find no slot."""
        if self._draft is None or not self._draft.running:
            return inf
        return max(1.0, self._num_sessions / self._draft.running)

    def _tick(self, now_s: float) -> None:
        """Both tiers decide."""
        self._expire(now_s)
        num_targets = max(1, len(self._targets))
        waiting = len(self._waiting)
        ready, surplus = self._target.decide(
            now_s, Load(self._num_sessions + waiting, self._step_sum / num_targets if self._targets else 0.0)
        )
        for _ in range(ready):
            self._add(now_s)
        if surplus:
            self._drain(surplus)
        if self._draft is not None:
            self._draft.decide(now_s, self._draft_load())
        key = self._key()
        if key != self._level and (inf in (key, self._level) or abs(key / (self._level or 1.0) - 1) > LEVEL):
            self._new_level(now_s)
        if ready:
            self._serve_waiting(now_s)

    def _draft_load(self) -> Load:
        per_draft = self._per_draft()
        if per_draft is None or not self._num_sessions:
            return Load(self._num_sessions)
        middle = max(1.0, self._num_sessions / max(1, len(self._targets)))
        at = self.behaviour.at
        return Load(
            self._num_sessions,
            at("draft_step_ms", middle, per_draft),
            at("draft_wait", middle, per_draft),
            at("optimistic", middle, per_draft),
        )

    def _drain(self, surplus: int) -> None:
        """The emptiest targets get no new sessions and go when their last one ends."""
        staying = sorted(
            (one for one in self._targets if not one.is_draining), key=lambda one: len(one.sessions)
        )
        for target in staying[:surplus]:
            target.is_draining = True
            if target.sessions:
                self._not_free(target)
            else:
                self._remove(target)

    # ----------------------------------------------------------------- incidents

    def _strike(self, now_s: float, incident: Incident, lost: dict[int, int]) -> None:
        if incident.role == "draft":
            if self._draft is not None:
                lost[id(incident)] = dead = ceil(incident.share * self._draft.running)
                self._draft.running -= dead
                self._draft.gone += dead
                self._new_level(now_s)
            return
        alive = [one for one in self._targets if not one.is_draining]
        dead = ceil(incident.share * len(alive))
        lost[id(incident)] = dead
        self._target.running -= dead
        self._target.gone += dead
        for target in self._chance.sample(alive, dead):
            self._advance(target, now_s)
            for ends_at, _, request in sorted(target.sessions, reverse=True):
                request.left = ends_at - target.work
                self._num_sessions -= 1
                self._waiting.appendleft(request)
            self._remove(target)
            target.sessions = []
        self._serve_waiting(now_s)

    def _heal(self, incident: Incident, lost: dict[int, int]) -> None:
        tier = self._draft if incident.role == "draft" else self._target
        if tier is not None:
            tier.gone -= lost.pop(id(incident), 0)

    def _sample(self, now_s: float) -> None:
        draft = self._draft
        done = self._work * (self._granted / self._need if self._need else 0.0)
        self.samples.append(
            Sample(
                now_s,
                self._target.running,
                draft.running if draft else 0,
                self._target.scaler.wanted,
                draft.scaler.wanted if draft else 0,
                self._num_sessions,
                len(self._waiting),
                done,
            )
        )


def drafts(config: ServeConfig) -> bool:
    """Whether the configuration drafts at all."""
    return config.speculation.mode is not Mode.OFF and config.draft is not None
