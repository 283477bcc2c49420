"""A Backend wrapper that sends events to an observer and changes nothing else."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing

from adasd.errors import Overloaded
from adasd.ports import Clock
from adasd.requests import GenerationRequest, SpeculationOptions
from adasd.results import Chunk, Complete
from services.gateway.backend import Backend, Readiness, ServedModel, Text
from services.observability.service_events import ChunkMade, Observer, RequestEnded, RequestStarted


class InstrumentedBackend:
    """A Backend that reports each chunk of its answers."""

    def __init__(self, inner: Backend, tell: Observer, clock: Clock = time.monotonic) -> None:
        self._inner, self._tell, self._clock = inner, tell, clock

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Chunk | Complete, None]:
        """Like the inner backend. The end is reported on every path, before slots are freed."""
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

    def refusal(self) -> Overloaded | None:
        return self._inner.refusal()

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

    @property
    def sampling_defaults(self) -> Mapping[str, float]:
        return self._inner.sampling_defaults

    def effective(self, options: SpeculationOptions) -> SpeculationOptions:
        return self._inner.effective(options)

    def readiness(self) -> Readiness:
        return self._inner.readiness()

    def models(self) -> Sequence[ServedModel]:
        return self._inner.models()
