"""Every round of every answer in virtual time, over simulated ports.

Real: the session's protocol and runner (adasd.session), methods and controller, the admission queue, the leases, the
workers' call order, the engine's scheduler and slots, the scaling decision. Simulated: the passes (curves), the answers
(texts), links and CPU (costs), and Serve's choice of a replica (the emptier of two chosen at random).
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any

import numpy as np

from adasd.control.controller import Controller
from adasd.drafters.lookups import Lookups
from adasd.engine.scheduler import PrefillBudget
from adasd.errors import AdasdError, ConfigError, Overloaded
from adasd.requests import GenerationRequest, Mode, SamplingParams, SpeculationOptions
from adasd.results import Chunk, Complete
from adasd.rounds import DraftBlock, DraftCall, OpenCall, RoundCompleted, Verdict, VerifyCall
from adasd.session.runner import Runner, SharedParts
from adasd.session.slots import Observation, RunnerSettings
from cluster.scaling import Pace
from cluster.simulation import virtual_time
from cluster.simulation.costs import Card, Pair
from cluster.simulation.device import Device, Process, compute
from cluster.simulation.engine import CurveEngine
from cluster.simulation.outcome import LATE, NEVER, REFUSED, Answers, Outcome, Sample
from cluster.simulation.scaler import Load, Scaler
from cluster.simulation.texts import END, RIGHT, AnswerText, Texts
from cluster.simulation.virtual_time import now_s
from cluster.simulation.worker import SimulatedWorker
from services.config import ServeConfig, TierConfig
from services.orchestrator.admission import AdmissionQueue, AdmittedPlacement
from services.orchestrator.placement import DRAFT_LEASE_TIMEOUT_S
from services.worker.leases import Lease

TICK_S = 0.5
"""As ``metrics_interval_s`` in cluster.serve_scaling: how often replicas report and the number is decided."""
CONTEXT = 1 << 20
SMALLEST_ON_CPU = 8
"""As ``smallest_prefill`` of the C kernels (adasd.engine.forward.native)."""


class SimulatedTier:
    """The replicas of one tier: starts and removes them as the scaling policy decides, and leases their slots."""

    def __init__(
        self,
        role: str,
        config: TierConfig,
        card: Card,
        make: Callable[[int], SimulatedWorker],
        chance: random.Random,
    ) -> None:
        pace = Pace(config.min_replicas, config.max_replicas, down_after_s=config.down_after_s)
        first = max(1, config.min_replicas)
        self.role, self.card, self._make, self._chance = role, card, make, chance
        self.scaler = Scaler(role, pace, card.num_slots, first)
        self.workers = [make(number) for number in range(first)]
        self._numbers = count(first)
        self._starting: list[float] = []  # when they will serve
        self._queue: list[asyncio.Future[SimulatedWorker]] = []  # first come, first served
        self._promised: Counter[int] = Counter()  # slots by number of their worker

    @property
    def num_running(self) -> int:
        return sum(not worker.is_draining for worker in self.workers)

    @property
    def num_leased(self) -> int:
        return sum(len(worker.leases) for worker in self.workers)

    @property
    def num_waiting(self) -> int:
        return sum(not turn.done() for turn in self._queue)

    async def lease(self, session: str, timeout_s: float) -> tuple[SimulatedWorker, Lease]:
        """A slot, first come first served. Raises Overloaded after the timeout."""
        worker = None if self._queue else self._choose()
        if worker is None:
            turn: asyncio.Future[SimulatedWorker] = asyncio.get_running_loop().create_future()
            self._queue.append(turn)
            try:
                async with asyncio.timeout(timeout_s):
                    worker = await turn
            except TimeoutError:
                raise Overloaded(f"no {self.role} slot became free within {timeout_s:.1f} s") from None
            finally:
                self._queue.remove(turn)
                if turn.done() and not turn.cancelled():
                    self._promised[turn.result().number] -= 1
        return worker, worker.leases.grant(session)

    def give_back(self, worker: SimulatedWorker, lease: Lease) -> None:
        worker.close(lease)
        self._serve_next()

    def _choose(self) -> SimulatedWorker | None:
        """The emptier of two random replicas with a free slot."""
        free = [worker for worker in self.workers if self._num_free(worker) > 0]
        if len(free) > 2:
            free = self._chance.sample(free, 2)
        return max(free, key=self._num_free, default=None)

    def _num_free(self, worker: SimulatedWorker) -> int:
        """Slots that are neither leased nor promised to a session that is about to take one."""
        return worker.num_free - self._promised[worker.number]

    def _serve_next(self) -> None:
        """Promise free slots to waiting sessions; each takes its own when it runs."""
        for turn in self._queue:
            if turn.done():
                continue
            free = [worker for worker in self.workers if self._num_free(worker) > 0]
            if not free:
                return
            worker = max(free, key=self._num_free)
            self._promised[worker.number] += 1
            turn.set_result(worker)

    def tick(self, at_s: float) -> None:
        """One reading, one decision, and what follows from it."""
        ready = [start_s for start_s in self._starting if start_s <= at_s]
        self._starting = [start_s for start_s in self._starting if start_s > at_s]
        self.workers += [self._make(next(self._numbers)) for _ in ready]
        reports = [worker.load() for worker in self.workers if not worker.is_draining]

        def mean(name: str) -> float:
            return sum(report[name] for report in reports) / len(reports) if reports else 0.0

        load = Load(self.num_leased + self.num_waiting, mean("step_ms"), mean("wait"), mean("optimistic"))
        wanted = self.scaler.decide(at_s, self.num_running, load)
        missing = wanted - self.num_running - len(self._starting)
        self._starting += [at_s + self.card.start_up_s] * max(0, missing)
        surplus = self.num_running - wanted
        if surplus > 0:
            self._starting = []
            emptiest = sorted((w for w in self.workers if not w.is_draining), key=lambda w: len(w.leases))
            for worker in emptiest[:surplus]:
                worker.is_draining = True
        elif missing < 0:
            del self._starting[missing:]
        self.workers = [worker for worker in self.workers if not worker.is_draining or len(worker.leases)]
        self._serve_next()


class SimulatedSlot:
    """A leased slot (adasd.ports.Verifier): calls cross a link and take CPU on both sides."""

    def __init__(self, tier: SimulatedTier, worker: SimulatedWorker, lease: Lease, hop: Hop) -> None:
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._tier, self._worker, self._lease, self._hop = tier, worker, lease, hop

    async def draft(self, call: DraftCall) -> DraftBlock:
        reply = await self._call(call)
        assert isinstance(reply, DraftBlock)
        return reply

    async def verify(self, call: VerifyCall) -> Verdict:
        reply = await self._call(call)
        assert isinstance(reply, Verdict)
        return reply

    async def _call(self, call: DraftCall | VerifyCall) -> DraftBlock | Verdict:
        await self._hop.there()
        reply = await self._worker.call(replace(call, session=self._lease.session))
        await self._hop.back()
        return reply

    async def release(self) -> None:
        if not self.lost.done():
            self.lost.cancel()
            self._tier.give_back(self._worker, self._lease)

    def lose(self) -> None:
        """The replica died."""
        if not self.lost.done():
            self.lost.set_result("its replica died")


@dataclass(frozen=True, slots=True)
class Hop:
    """The way from a session to a worker and back: CPU of the orchestrator, then the link."""

    process: Process
    half_s: float  # CPU each way
    link_s: float

    async def there(self) -> None:
        await self.process.run(self.half_s)
        await asyncio.sleep(self.link_s)

    async def back(self) -> None:
        await asyncio.sleep(self.link_s)
        await self.process.run(self.half_s)


class SimulatedPlacement:
    """Leases simulated slots for one answer (adasd.ports.Placement), as services.orchestrator.placement does."""

    def __init__(self, deployment: Deployment, process: Process, text: AnswerText) -> None:
        self._deployment, self._process, self._text = deployment, process, text
        self._numbers = count()

    @property
    def draft_names(self) -> tuple[str, ...]:
        return ("model",) if self._deployment.draft is not None else ()

    async def attach_target(self, call: OpenCall) -> SimulatedSlot:
        deployment = self._deployment
        return await self._attach(
            deployment.target, call, deployment.config.admission_timeout_s, deployment.pair.service.link_ms
        )

    async def attach_draft(self, call: OpenCall, name: str | None = None) -> SimulatedSlot:
        deployment = self._deployment
        assert deployment.draft is not None, "a session without a draft tier asks for a draft"
        link_ms = deployment.pair.service.draft_link_ms
        return await self._attach(deployment.draft, call, DRAFT_LEASE_TIMEOUT_S, link_ms)

    async def _attach(
        self, tier: SimulatedTier, call: OpenCall, timeout_s: float, link_ms: float
    ) -> SimulatedSlot:
        worker, lease = await tier.lease(f"{call.session}.{next(self._numbers)}", timeout_s)
        try:
            await asyncio.sleep(1e-3 * self._deployment.pair.service.lease_ms)
        except asyncio.CancelledError:
            tier.give_back(worker, lease)
            raise
        hop = Hop(self._process, 5e-4 * self._deployment.pair.service.call_ms, 1e-3 * link_ms)
        slot = SimulatedSlot(tier, worker, lease, hop)
        worker.open(lease, self._text, call.max_len, slot.lose)
        return slot


class Deployment:
    """The orchestrator and both tiers of one configuration, on the running virtual loop."""

    def __init__(
        self,
        config: ServeConfig,
        pair: Pair,
        seed: int,
        on_round: Callable[[RoundCompleted], object] = lambda _: None,
    ) -> None:
        if config.speculation.mode is Mode.ADAPTIVE:
            raise ConfigError(
                "the simulator knows which tokens pass the exact test, not which would be relaxed; set "
                "speculation.mode to exact or off"
            )
        self.config, self.pair, self._on_round = config, pair, on_round
        service = pair.service
        shared = Device(service.cores, service.background) if service.cores else None
        chance = random.Random(seed)
        numbers = count()
        is_beside = pair.draft is not None and pair.draft.is_beside
        cards: dict[int, Device] = {}  # by number of the replica in its tier

        def worker(role: str, tier: TierConfig, card: Card, number: int) -> SimulatedWorker:
            chunk, on_cpu = tier.engine.prefill_chunk, shared is not None
            prefill = PrefillBudget(chunk, SMALLEST_ON_CPU) if on_cpu else PrefillBudget(8 * chunk, chunk)
            engine = CurveEngine(
                card.passes, card.num_slots, CONTEXT, now_s, prefill_chunk=chunk, prefill=prefill
            )
            device = cards.setdefault(number, Device()) if is_beside else shared
            return SimulatedWorker(role, next(numbers), engine, device, service.worker_ms, now_s)

        def tier(role: str, its: TierConfig, card: Card) -> SimulatedTier:
            return SimulatedTier(role, its, card, partial(worker, role, its, card), chance)

        self.target = tier("target", config.target, pair.target)
        self.draft = None
        if config.draft is not None and pair.draft is not None:
            self.draft = tier("draft", config.draft, pair.draft)
        self._orchestrators = [
            (Process(shared), AdmissionQueue(config.queue_len)) for _ in range(config.orchestrator.replicas)
        ]
        self._controller = Controller(config.speculation, ("model",) if self.draft is not None else ())
        self._turns = count()
        self._going_on: set[asyncio.Task[None]] = set()
        self.num_running = 0
        self.tokens = 0.0
        self.asked_s, self.first_s = list[float](), list[float]()  # of all requests that have a first token
        self.answers, self.samples = Answers(), list[Sample]()

    # ----------------------------------------------------------------- answers

    async def ask(self, text: AnswerText) -> float:
        """One request from its arrival to its end; it becomes a line of ``answers``.

        Returns seconds until the client may ask again: more than 0 if the request was refused.
        """
        arrived_s, first_s, number = now_s(), NEVER, next(self._turns)
        self.num_running += 1
        try:
            async with aclosing(self._answer(text, number)) as chunks:
                async for chunk in chunks:
                    if isinstance(chunk, Chunk):
                        self.tokens += len(chunk.tokens)
                        if first_s != first_s:
                            first_s = now_s()
                            self.asked_s.append(arrived_s)
                            self.first_s.append(first_s)
        except AdasdError as error:
            outcome = REFUSED if now_s() - arrived_s < self.config.admission_timeout_s else LATE
            if not isinstance(error, Overloaded):
                raise
            self.answers.add(arrived_s, NEVER, now_s(), 0, outcome)
            return error.retry_after_s
        else:
            self.answers.add(arrived_s, first_s, now_s(), text.num_tokens)
            return 0.0
        finally:
            self.num_running -= 1

    def first_ms_since(self, begin_s: float) -> float:
        """Mean milliseconds to the first tokens that came from then on; of all, if none did."""
        first_s, arrived_s = (np.asarray(column) for column in (self.first_s, self.asked_s))
        chosen = first_s >= begin_s
        if not chosen.any():
            chosen[:] = True
        return 1e3 * float((first_s - arrived_s)[chosen].mean())

    async def _answer(self, text: AnswerText, number: int) -> AsyncGenerator[Chunk | Complete, None]:
        process, queue = self._orchestrators[number % len(self._orchestrators)]
        limit = (self.config.max_ongoing_requests + self.config.queue_len) * len(self._orchestrators)
        if self.num_running > limit or (queue.max_queued and queue.is_full):
            raise queue.refusal()
        self._beside(compute(process.device, 1e-3 * self.pair.service.elsewhere_ms))
        await process.run(1e-3 * self.pair.service.request_ms)
        await asyncio.sleep(1e-3 * self.pair.service.first_ms)
        request = GenerationRequest(
            f"r{number}",
            (RIGHT,) * text.prompt_len,
            SamplingParams(max(text.num_tokens, text.trace.max_tokens), 0.0),
            SpeculationOptions(),
        )
        runner = Runner(
            request,
            self._parts(),
            AdmittedPlacement(SimulatedPlacement(self, process, text), queue),
            self._tell,
        )
        async with aclosing(runner.run()) as events:
            async for event in events:
                yield event
        self._beside(process.run(1e-3 * self.pair.service.ending_ms))

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        """CPU that the answer does not wait for."""
        task = asyncio.ensure_future(work)
        self._going_on.add(task)
        task.add_done_callback(self._going_on.discard)

    def _parts(self) -> SharedParts:
        config = self.config
        return SharedParts(
            self._controller,
            Lookups(0),
            frozenset({END}),
            lambda ids: "." * len(ids),
            CONTEXT,
            RunnerSettings(config.request_timeout_s, config.draft_timeout_s, config.reattach_s),
            clock=now_s,
        )

    def _tell(self, seen: Observation) -> None:
        if isinstance(seen, RoundCompleted):
            self._on_round(seen)

    # ----------------------------------------------------------------- the deployment over time

    async def watch(self, sample_s: float) -> None:
        """Decide on replicas twice a second, and sample the state."""
        next_s = 0.0
        while True:
            at_s = now_s()
            for tier in filter(None, (self.target, self.draft)):
                tier.tick(at_s)
            if at_s >= next_s - 1e-9:
                next_s += sample_s
                self.samples.append(self._sample(at_s))
            await asyncio.sleep(TICK_S)

    def _sample(self, at_s: float) -> Sample:
        target, draft = self.target, self.draft
        running = target.num_leased
        return Sample(
            at_s,
            target.num_running,
            draft.num_running if draft else 0,
            target.scaler.wanted,
            draft.scaler.wanted if draft else 0,
            running,
            max(0, self.num_running - running),
            self.tokens,
        )


Clients = Callable[[Deployment, random.Random], Awaitable[None]]
"""A load: it asks, and returns when everything is answered."""


def open_loop(
    times_s: Sequence[float],
    texts: Texts,
    prompt_len: int,
    lengths: Sequence[float] | None = None,
    *,
    rest_s: float = 0.0,
) -> Clients:
    """A request at each of these times, then ``rest_s`` seconds without any.

    ``lengths``: tokens of each answer (None: as the texts have it).
    """

    async def load(deployment: Deployment, chance: random.Random) -> None:
        asked: set[asyncio.Task[float]] = set()
        for number, at_s in enumerate(times_s):
            await asyncio.sleep(max(0.0, at_s - now_s()))
            length = None if lengths is None else int(lengths[number])
            task = asyncio.ensure_future(deployment.ask(texts.draw(chance, prompt_len, length)))
            asked.add(task)
            task.add_done_callback(asked.discard)
        await asyncio.gather(*asked, asyncio.sleep(rest_s))

    return load


def closed_loop(
    phases: Sequence[tuple[int, float]], texts: Texts, prompt_len: int, pause_s: float = 0.1
) -> Clients:
    """Client i asks one request after another while more than i are wanted; phases are (clients, seconds).

    A client that is refused waits as long as the refusal says.
    """

    def wanted(at_s: float) -> int:
        for number, seconds in phases:
            if at_s < seconds:
                return number
            at_s -= seconds
        return 0

    async def load(deployment: Deployment, chance: random.Random) -> None:
        end_s = sum(seconds for _, seconds in phases)

        async def client(number: int) -> None:
            while now_s() < end_s:
                if number >= wanted(now_s()):
                    await asyncio.sleep(pause_s)
                else:
                    await asyncio.sleep(await deployment.ask(texts.draw(chance, prompt_len, None)))

        await asyncio.gather(*(client(number) for number in range(max(number for number, _ in phases))))

    return load


def simulate(
    config: ServeConfig,
    pair: Pair,
    clients: Clients,
    *,
    seed: int = 0,
    sample_s: float = 1.0,
    on_round: Callable[[RoundCompleted], object] = lambda _: None,
) -> Outcome:
    """Play a load against a deployment, round by round."""

    async def main() -> Outcome:
        deployment = Deployment(config, pair, seed, on_round)
        watching = asyncio.ensure_future(deployment.watch(sample_s))
        playing = asyncio.ensure_future(clients(deployment, random.Random(seed + 1)))
        await asyncio.wait({watching, playing}, return_when=asyncio.FIRST_COMPLETED)
        watching.cancel()
        (watching if not playing.done() else playing).result()
        return Outcome(deployment.answers, deployment.samples, now_s())

    return virtual_time.run(main())
