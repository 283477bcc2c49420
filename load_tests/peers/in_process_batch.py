"""Many answers on one pair in one process and one thread: runners over the batches of the two engines.

The drafting steps of all answers come first, then one step of the target, so that blocks which are drafted together
are verified together. It does what the service does, but without a network.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from adasd.control.controller import Controller
from adasd.drafters.lookups import Lookups
from adasd.local import IN_PLACE, LocalPair
from adasd.ports import Clock, Engine
from adasd.requests import GenerationRequest, SamplingParams, SpeculationOptions
from adasd.results import Chunk, Complete, EmittedToken
from adasd.rounds import CallFailed, DraftBlock, DraftCall, OpenCall, Verdict, VerifyCall
from adasd.session.runner import Runner, SharedParts
from adasd.session.tasks import InPlaceTasks, finished

MAX_DRAFT_STEPS = 16
"""Drafting steps before a step of the target, so that a draft's long prompt does not delay the others."""


@dataclass(slots=True, eq=False)
class BatchedAnswer:
    """One answer: its tokens so far, and when each chunk came."""

    events: AsyncGenerator[Chunk | Complete, None]
    began_s: float
    tokens: list[EmittedToken] = field(default_factory=list)
    chunks_s: list[float] = field(default_factory=list)
    done: bool = False
    next_event: Any = None  # the generator's awaitable that waits for an engine

    @property
    def token_ids(self) -> list[int]:
        return [token.id for token in self.tokens]

    @property
    def first_token_s(self) -> float:
        return self.chunks_s[0] - self.began_s

    @property
    def gaps_s(self) -> list[float]:
        return [later - sooner for sooner, later in zip(self.chunks_s, self.chunks_s[1:], strict=False)]


class InProcessBatch:
    """Answers with fixed options and a controller of its own that learns from all of them.

    It is also the Placement of its runners.
    """

    def __init__(
        self, pair: LocalPair, options: SpeculationOptions, clock: Clock = time.perf_counter
    ) -> None:
        self.pair, self._options, self._clock = pair, options, clock
        controller = Controller(pair.controller.config, tuple(pair.drafts))
        self._shared = SharedParts(
            controller, Lookups(), pair.eos_ids, pair.decode, pair.target.max_context, IN_PLACE
        )
        self._names = (f"batch-{number}" for number in count())
        self._running: dict[str, BatchedAnswer] = {}
        self.asked: dict[tuple[Engine, str], Future[Any]] = {}

    @property
    def num_running(self) -> int:
        return len(self._running)

    def start(self, prompt: Sequence[int], sampling: SamplingParams) -> BatchedAnswer:
        """Begin an answer; it advances with every ``turn``. Raises the errors of opening a slot."""
        request = GenerationRequest(next(self._names), tuple(prompt), sampling, self._options)
        runner = Runner(request, self._shared, self, tasks=InPlaceTasks())
        answer = BatchedAnswer(runner.run(), self._clock())
        self._running[request.request_id] = answer
        answer.next_event = anext(answer.events)
        self._resume(request.request_id)
        return answer

    def turn(self) -> None:
        """Draft for all answers that wait for a block, then run one step of the target."""
        draft, target = self.pair.draft, self.pair.target
        for _ in range(MAX_DRAFT_STEPS):
            if draft is None or not draft.num_pending:
                break
            self._hand_out(draft)
        if target.num_pending:
            self._hand_out(target)

    def finish(self) -> None:
        """Run turns until every answer is complete."""
        while self._running:
            self.turn()

    def _hand_out(self, engine: Engine) -> None:
        for answer in engine.step():
            asked = self.asked.pop((engine, answer.session))
            if isinstance(answer, CallFailed):
                asked.set_exception(answer.error)
            else:
                asked.set_result(answer)
            self._resume(answer.session)

    def _resume(self, session: str) -> None:
        """Resume until the answer waits for an engine again, or ends."""
        answer = self._running[session]
        try:
            while True:
                try:
                    answer.next_event.send(None)
                except StopIteration as found:
                    if isinstance(found.value, Chunk):
                        answer.tokens += found.value.tokens
                        answer.chunks_s.append(self._clock())
                    answer.next_event = anext(answer.events)
                else:
                    return
        except StopAsyncIteration:
            answer.done = True
            del self._running[session]

    # ----------------------------------------------------------------- adasd.ports.Placement

    @property
    def draft_names(self) -> tuple[str, ...]:
        return tuple(self.pair.drafts)

    async def attach_target(self, call: OpenCall) -> BatchedSlot:
        return BatchedSlot(self, self.pair.target, call)

    async def attach_draft(self, call: OpenCall, name: str | None = None) -> BatchedSlot:
        assert self.pair.draft is not None
        return BatchedSlot(self, self.pair.draft, call)


class BatchedSlot:
    """adasd.ports.Verifier over a slot of an engine whose steps the batch runs."""

    def __init__(self, batch: InProcessBatch, engine: Engine, call: OpenCall) -> None:
        engine.open(call)
        self.lost: Future[str] = Future()
        self._batch, self._engine, self._session = batch, engine, call.session

    async def draft(self, call: DraftCall) -> DraftBlock:
        drafted = await self._ask(call)
        assert isinstance(drafted, DraftBlock)
        return drafted

    async def verify(self, call: VerifyCall) -> Verdict:
        verdict = await self._ask(call)
        assert isinstance(verdict, Verdict)
        return verdict

    async def _ask(self, call: DraftCall | VerifyCall) -> DraftBlock | Verdict:
        self._engine.submit(call)
        asked = self._batch.asked[self._engine, self._session] = Future[DraftBlock | Verdict]()
        return await finished(asked)

    async def release(self) -> None:
        self._engine.close(self._session)
