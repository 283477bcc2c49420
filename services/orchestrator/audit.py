"""Shadow audit: scores a sample of adaptive answers again with the exact test, in the background, on the target.

A verify session is fed the prompt and judges the answer in blocks, as if they had been drafted. Where the exact test
rejects a token, exact decoding would have emitted another one. The audit counts that and continues after the answer's
own token, so every position is judged given the same prefix as in the answer.

* greedy, seeded: the exact token is unique (argmax, the shared noise's choice). The share of tokens that differ is an
  upper bound on the mean total-variation distance between the two distributions, as for any coupling.
* unseeded: exact decoding emits an answer's token again with the target's probability of it, so the count
  estimates how often an independent exact answer would differ; that is above 0 for exact answers, too.

Audits have the lowest priority: none starts or continues while requests wait or half of the target's slots are taken.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from uuid import uuid4

from adasd.drafters.lookup import point_masses
from adasd.errors import AdasdError
from adasd.ports import Placement, Verifier
from adasd.requests import GenerationRequest, Mode, SamplingParams
from adasd.rounds import AcceptanceRule, OpenCall, VerifyCall
from adasd.session.opening import transform_of
from services.observability.service_events import (
    AnswerAudited,
    AuditEnded,
    ChunkMade,
    Event,
    Observer,
    RequestEnded,
    RequestStarted,
)

log = logging.getLogger(__name__)

BLOCK_LEN = 32
"""Tokens per call, so the most that an audit adds to a forward pass shared with other sessions."""
MAX_WAITING = 16
"""Answers that may wait for their audit; further ones are skipped."""
ATTACH_TIMEOUT_S = 2.0
POLL_S = 0.2
"""Interval between checks whether the target is idle enough."""


@dataclass(frozen=True, slots=True)
class AuditedAnswer:
    """An answer to score again."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]  # the whole answer
    sampling: SamplingParams

    @property
    def choice(self) -> str:
        """How the exact test chooses: greedy | seeded | unseeded."""
        if self.sampling.temperature == 0.0:
            return "greedy"
        return "unseeded" if self.sampling.seed is None else "seeded"


@dataclass(slots=True)
class _Running:
    request: GenerationRequest
    tokens: list[int] = field(default_factory=list)


class NotIdle(Exception):
    """Requests need the target; the audit is abandoned."""


class Auditor:
    """An observer (services.observability.service_events) that audits a ``share`` of adaptive answers, one at a time.

    ``is_idle`` says whether the target has slots to spare. Start and stop it on the same event loop.
    """

    def __init__(
        self,
        placement: Placement,
        eos_ids: frozenset[int],
        share: float,
        is_idle: Callable[[], bool],
        tell: Observer,
        chance: random.Random | None = None,
    ) -> None:
        self._placement, self._eos_ids, self._share = placement, eos_ids, share
        self._is_idle, self._tell, self._chance = is_idle, tell, chance or random.Random()
        self._running: dict[str, _Running] = {}
        self._waiting: asyncio.Queue[AuditedAnswer] = asyncio.Queue(MAX_WAITING)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Audit answers that start from now on."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """End the running audit and give its slot back. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def __call__(self, event: Event) -> None:
        match event:
            case RequestStarted(request=GenerationRequest() as request, mode=Mode.ADAPTIVE):
                if self._chance.random() < self._share:
                    self._running[event.request_id] = _Running(request)
            case ChunkMade():
                if running := self._running.get(event.request_id):
                    running.tokens += [token.id for token in event.chunk.tokens]
            case RequestEnded():
                self._enqueue(self._running.pop(event.request_id, None), event)

    def _enqueue(self, running: _Running | None, event: RequestEnded) -> None:
        if running is None or event.complete is None or not running.tokens:
            return  # not sampled, failed, or empty
        request = running.request
        try:
            self._waiting.put_nowait(AuditedAnswer(request.prompt, tuple(running.tokens), request.sampling))
        except asyncio.QueueFull:
            self._tell(AuditEnded("left_out"))

    async def _run(self) -> None:
        while True:
            answer = await self._waiting.get()
            while not self._is_idle():  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)
            self._tell(AuditEnded(await self._audit(answer)))

    async def _audit(self, answer: AuditedAnswer) -> str:
        """Audit and return the outcome: done | given_up | failed."""
        try:
            num_different = await self.audit(answer)
        except (NotIdle, TimeoutError):
            return "given_up"
        except AdasdError as error:
            log.warning("an audit failed: %s", error)
            return "failed"
        except Exception:
            log.exception("an audit failed for an unforeseen reason")
            return "failed"
        self._tell(AnswerAudited(answer.choice, len(answer.tokens), num_different))
        return "done"

    async def audit(self, answer: AuditedAnswer) -> int:
        """Number of tokens in the answer that exact decoding would have replaced.

        Raises NotIdle, TimeoutError (no slot), or the target's error. The slot is given back on every path.
        """
        name = f"audit-{uuid4().hex}"
        transform = transform_of(answer.sampling, len(answer.prompt), self._eos_ids)
        async with asyncio.timeout(ATTACH_TIMEOUT_S):
            max_len = len(answer.prompt) + len(answer.tokens) + 1
            slot = await self._placement.attach_target(OpenCall(name, transform, max_len))
        try:
            return await self._count(answer, slot, name)
        finally:
            await asyncio.shield(slot.release())

    async def _count(self, answer: AuditedAnswer, slot: Verifier, name: str) -> int:
        text = (*answer.prompt, *answer.tokens)
        known, cached, num_different = len(answer.prompt), 0, 0  # tokens judged, in the cache, that differ
        for epoch in count(1):
            if known == len(text):
                return num_different
            if epoch > 1 and not self._is_idle():
                raise NotIdle
            keep = min(cached, known - 1)
            block = text[known : known + BLOCK_LEN]
            proposals = point_masses(block) if answer.choice == "unseeded" else None
            call = VerifyCall(name, epoch, keep, text[keep:known], block, proposals, AcceptanceRule())
            verdict = await slot.verify(call)
            cached = known + verdict.num_accepted
            known = cached
            if verdict.num_accepted < len(block):
                num_different += 1
                known += 1  # continue after the answer's own token
        raise AssertionError("unreachable")
