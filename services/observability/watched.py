"""A Backend and a Placement that tell observers what passes through them, and change nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from adasd.errors import AdasdError, InvalidRequest, Superseded
from adasd.ports import Clock
from adasd.requests import GenerationRequest, SpeculationOptions
from adasd.results import Chunk, Complete
from adasd.rounds import DraftBlock, DraftCall, OpenCall, Verdict, VerifyCall
from adasd.session.runner import Attachment, Placement
from services.gateway.backend import Backend, Readiness, ServedModel, Text
from services.observability.events import (
    BlockLate,
    ChunkMade,
    Observer,
    RequestEnded,
    RequestStarted,
    SlotGranted,
    SlotLost,
)


class WatchedBackend:
    """A Backend whose answers are told chunk by chunk."""

    def __init__(self, inner: Backend, tell: Observer, clock: Clock = time.monotonic) -> None:
        self._inner, self._tell, self._clock = inner, tell, clock

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Chunk | Complete, None]:
        """As the inner one; the end is told on every path, before slots are given back."""
        mode = self._inner.effective(request.speculation).mode
        assert mode is not None
        name, complete, failure = request.request_id, None, None
        self._tell(RequestStarted(name, mode, len(request.prompt), self._clock(), request))
        async with aclosing(self._inner.generate(request)) as events:
            try:
                async for event in events:
                    if isinstance(event, Chunk):
                        self._tell(ChunkMade(name, event, self._clock()))
                    else:
                        complete = event
                    yield event
            except Exception as error:
                failure = error
                raise
            finally:
                self._tell(RequestEnded(name, self._clock(), complete, failure))

    def abort(self, request_id: str) -> bool:
        return self._inner.abort(request_id)

    @property
    def num_running(self) -> int:
        return self._inner.num_running

    @property
    def tokenizer(self) -> Text:
        return self._inner.tokenizer

    @property
    def model_name(self) -> str:
        return self._inner.model_name

    @property
    def context_len(self) -> int:
        return self._inner.context_len

    def effective(self, options: SpeculationOptions) -> SpeculationOptions:
        return self._inner.effective(options)

    def readiness(self) -> Readiness:
        return self._inner.readiness()

    def models(self) -> Sequence[ServedModel]:
        return self._inner.models()


class WatchedPlacement:
    """A Placement whose slots are told when they are granted, late or lost."""

    def __init__(self, inner: Placement, tell: Observer, draft_timeout_s: float) -> None:
        self._inner, self._tell, self._draft_timeout_s = inner, tell, draft_timeout_s

    @property
    def draft_names(self) -> tuple[str, ...]:
        return self._inner.draft_names

    async def attach_target(self, call: OpenCall) -> Attachment:
        began_s = time.monotonic()
        return self._granted("target", call, began_s, await self._inner.attach_target(call))

    async def attach_draft(self, call: OpenCall, name: str | None = None) -> Attachment:
        began_s = time.monotonic()
        return self._granted("draft", call, began_s, await self._inner.attach_draft(call, name))

    def _granted(self, role: str, call: OpenCall, began_s: float, slot: Attachment) -> Attachment:
        now_s = time.monotonic()
        self._tell(SlotGranted(call.session, role, now_s - began_s, now_s))
        return WatchedSlot(slot, role, self._tell, self._draft_timeout_s)


class WatchedSlot:
    """A slot whose loss is told once, however many signs of it there are."""

    def __init__(self, inner: Attachment, role: str, tell: Observer, draft_timeout_s: float) -> None:
        self._inner, self._role, self._tell = inner, role, tell
        self._draft_timeout_s = draft_timeout_s
        self._is_lost = False
        self.lost = inner.lost
        self.lost.add_done_callback(self._on_lease_end)

    async def draft(self, call: DraftCall) -> DraftBlock:
        # The runner's own timer is the same; a call that drafts nothing keeps no round waiting.
        loop = asyncio.get_running_loop()
        late = (
            loop.call_later(self._draft_timeout_s, self._tell, BlockLate()) if call.rule.max_tokens else None
        )
        try:
            return await self._inner.draft(call)
        except Superseded:
            raise
        except AdasdError:
            self._lose()
            raise
        finally:
            if late is not None:
                late.cancel()

    async def verify(self, call: VerifyCall) -> Verdict:
        try:
            return await self._inner.verify(call)
        except InvalidRequest:
            raise
        except AdasdError:
            self._lose()
            raise

    async def release(self) -> None:
        await self._inner.release()

    def _on_lease_end(self, lost: asyncio.Future[str]) -> None:
        if not lost.cancelled():  # a release cancels it
            self._lose()

    def _lose(self) -> None:
        if not self._is_lost:
            self._is_lost = True
            self._tell(SlotLost(self._role))
