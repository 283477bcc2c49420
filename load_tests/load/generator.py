"""Sends requests at their intended times, independent of earlier ones, and detects when it is too slow itself.

Open loop: arrivals are given, so a slow server gets the same load as a fast one, and every latency is measured from
the intended time (no coordinated omission). Closed loop: a number of clients, each with one request at a time.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from load_tests.load.answers import Ask, Outcome, Reply
from load_tests.load.doors import Door

MAX_IN_FLIGHT = 2000
"""Of an open loop; a closed one has no more than its clients."""
PROBE_S = 0.02
LATE_S = 0.02
"""If the 99th percentile of lateness is above this, or above a tenth of the median time to the first token, the
generator has measured itself.
"""
BUSY_SHARE = 0.85
"""Share of one core above which the generator's own work affects its measurements."""


@dataclass(frozen=True, slots=True)
class ArrivalPhase:
    """A part of the run with one load; seconds since its start. ``offered_per_s`` is None for closed loops."""

    name: str
    began_s: float
    ended_s: float  # the last request is sent, though not yet answered
    offered_per_s: float | None
    num_clients: int | None


@dataclass(frozen=True, slots=True)
class Strain:
    """How loaded the generator itself was."""

    late_p99_s: float = 0.0  # delay after the intended send time
    loop_lag_p99_s: float = 0.0  # delay of a timer of the event loop
    cpu_share: float = 0.0  # of one core
    num_not_sent: int = 0  # MAX_IN_FLIGHT were already waiting for answers


class Generator:
    """One run's requests. Use it on one event loop; ``close`` cuts running requests.

    ``now``: seconds since the start of the run, the same clock as the clients'.
    """

    def __init__(
        self, doors: Mapping[str, Door], now: Callable[[], float], max_in_flight: int = MAX_IN_FLIGHT
    ) -> None:
        self._doors, self.now, self._max_in_flight = doors, now, max_in_flight
        self._turns = turns(tuple(doors))
        self._begun_s, self._begun_cpu_s = now(), time.process_time()
        self._running: dict[asyncio.Task[None], Reply] = {}
        self._lags_s: list[float] = []
        self._probe = asyncio.get_running_loop().create_task(self._measure_lag())
        self.answers: list[Reply] = []
        self.phases: list[ArrivalPhase] = []

    @property
    def num_in_flight(self) -> int:
        return len(self._running)

    # ----------------------------------------------------------------- loads

    async def open_loop(
        self, name: str, times_s: Iterable[float], asks: Iterator[Ask], rate_per_s: float
    ) -> None:
        """Send a request at each of ``times_s`` (from now); returns when the last one is sent."""
        began_s = self.now()
        try:
            for at_s in times_s:
                intended_s = began_s + at_s
                await asyncio.sleep(max(0.0, intended_s - self.now()))
                self._send(next(asks), intended_s, name, self.num_in_flight >= self._max_in_flight)
        finally:
            self.phases.append(ArrivalPhase(name, began_s, self.now(), rate_per_s, None))

    async def closed_loop(
        self,
        name: str,
        num_clients: int,
        asks: Iterator[Ask],
        seconds: float | None = None,
        num_requests: int | None = None,
        still: Callable[[], bool] = lambda: True,
    ) -> None:
        """``num_clients`` send one request after another until time or number is reached, or ``still`` is false."""
        began_s, num_sent = self.now(), 0

        async def client() -> None:
            nonlocal num_sent
            while still() and (seconds is None or self.now() < began_s + seconds):
                if num_requests is not None and num_sent >= num_requests:
                    return
                num_sent += 1
                await asyncio.wait([self._send(next(asks), self.now(), name, is_full=False)])

        clients = [asyncio.ensure_future(client()) for _ in range(num_clients)]
        try:
            await asyncio.gather(*clients)
        finally:
            for one in clients:
                one.cancel()
            self.phases.append(ArrivalPhase(name, began_s, self.now(), None, num_clients))

    async def settle(self, timeout_s: float) -> None:
        """Wait for running requests; those that take longer are cut."""
        if self._running:
            await asyncio.wait(self._running, timeout=timeout_s)
        await self._cut()

    async def close(self) -> None:
        """Cut all requests; nothing of the generator runs afterwards."""
        self._probe.cancel()
        with suppress(asyncio.CancelledError):
            await self._probe
        await self._cut()

    async def _cut(self) -> None:
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ----------------------------------------------------------------- one request

    def _send(self, ask: Ask, intended_s: float, phase: str, is_full: bool) -> asyncio.Task[None]:
        door = ask.door if ask.door in self._doors else next(self._turns)
        answer = Reply(ask, door, intended_s, self.now(), phase)
        self.answers.append(answer)
        todo: Awaitable[None] = self._give_up(answer) if is_full else self._ask(self._doors[door], answer)
        task = asyncio.ensure_future(todo)
        self._running[task] = answer
        task.add_done_callback(self._running.pop)
        return task

    async def _ask(self, door: Door, answer: Reply) -> None:
        answer.sent_s = self.now()
        try:
            await door.ask(answer.ask, answer)
        except asyncio.CancelledError:
            answer.outcome, answer.error = Outcome.CUT, "cut at the end of the run"
            answer.ended_s = self.now()
            raise
        judge_refusal(answer)

    async def _give_up(self, answer: Reply) -> None:
        answer.ended_s = self.now()
        answer.error = NOT_SENT

    async def _measure_lag(self) -> None:
        while True:
            due_s = time.monotonic() + PROBE_S
            await asyncio.sleep(PROBE_S)
            self._lags_s.append(max(0.0, time.monotonic() - due_s))

    # ----------------------------------------------------------------- the generator itself

    def strain(self) -> Strain:
        """Strain of the run so far."""
        late_s = [answer.late_s for answer in self.answers if answer.error != NOT_SENT]
        num_not_sent = sum(answer.error == NOT_SENT for answer in self.answers)
        share = (time.process_time() - self._begun_cpu_s) / max(1e-9, self.now() - self._begun_s)
        return Strain(percentile(late_s, 0.99), percentile(self._lags_s, 0.99), share, num_not_sent)


NOT_SENT = "not sent: too many requests in flight"


def judge_refusal(answer: Reply) -> None:
    """A refusal is correct only for a raw request, and an answer to one is wrong unless it may be valid."""
    if answer.ask.raw is None and answer.outcome is Outcome.REFUSED:
        answer.outcome = Outcome.FAILED
    if answer.ask.raw is not None and not answer.ask.may_be_valid and answer.outcome is Outcome.DONE:
        answer.outcome, answer.error = Outcome.FAILED, "a malformed request was answered"


def percentile(values: Iterable[float], share: float) -> float:
    """Nearest rank; 0 without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def bottleneck(strain: Strain, median_first_token_s: float) -> str | None:
    """Why the generator, not the server, may be the bottleneck; None if it kept up."""
    allowed_s = max(LATE_S, 0.1 * median_first_token_s)
    if strain.num_not_sent:
        return f"{strain.num_not_sent} requests were not sent, since {MAX_IN_FLIGHT} were in flight"
    if strain.cpu_share > BUSY_SHARE:
        return f"it used {strain.cpu_share:.0%} of a core"
    if strain.late_p99_s > allowed_s:
        return f"1 % of the requests went out {1e3 * strain.late_p99_s:.0f} ms late or later"
    if strain.loop_lag_p99_s > max(2 * LATE_S, 0.2 * median_first_token_s):
        return f"its timers were {1e3 * strain.loop_lag_p99_s:.0f} ms late (99th percentile)"
    return None


def turns(doors: Sequence[str]) -> Iterator[str]:
    """Every door once, then every door again, each time in another order.

    With one order and an even number of questions, each question would always go to the same door.
    """
    rng = random.Random(0)
    while True:
        yield from rng.sample(doors, len(doors))
