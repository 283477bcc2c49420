"""Generates answers for the gateway: admission, one runner per request, and the state of the service.

Knows no Ray: it is given a Placement (leases in production, fakes in tests).
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from adasd.control.controller import Controller
from adasd.control.draft_sources import offered
from adasd.drafters.lookups import Lookups
from adasd.errors import InvalidRequest, Overloaded
from adasd.ports import Placement
from adasd.requests import GenerationRequest, SpeculationOptions
from adasd.results import Chunk, Complete
from adasd.session.runner import Runner, SharedParts
from adasd.session.slots import Observation, RunnerSettings
from adasd.text.tokenizer import Tokenizer
from services.config import ServeConfig
from services.example_prompts import examples_of
from services.gateway.backend import Readiness, ServedModel
from services.naming import shown
from services.orchestrator.admission import AdmissionQueue, AdmittedPlacement
from services.orchestrator.readiness import Readings


class OrchestratorBackend:
    """Implements services.gateway.backend.Backend for one pair of models."""

    def __init__(
        self,
        config: ServeConfig,
        tokenizer: Tokenizer,
        context_len: int,
        placement: Placement,
        readings: Readings,
        tell: Callable[[Observation], None] = lambda _: None,
        sampling_defaults: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """``tell`` receives events about every answer's rounds and slots.

        ``context_len``: tokens per session until a target says what its memory holds (``learn``).
        """
        self._sampling_defaults = sampling_defaults
        self.config, self._tokenizer, self._context_len = config, tokenizer, context_len
        self._verdict_backend = ""
        self.placement, self.readings, self.tell = placement, readings, tell
        self.controller = Controller(config.speculation, config.draft_sources)
        self.lookups = Lookups(config.speculation.recent_tokens)
        self.shared = SharedParts(
            self.controller,
            self.lookups,
            tokenizer.eos_ids,
            tokenizer.decode,
            context_len,
            RunnerSettings(config.request_timeout_s, config.draft_timeout_s, config.reattach_s),
        )
        self.started_s = int(time.time())
        self.runners: dict[str, Runner] = {}
        self.queue = AdmissionQueue(config.queue_len, lambda: len(self.runners) <= config.guaranteed_slots)

    # ----------------------------------------------------------------- state

    @property
    def tokenizer(self) -> Tokenizer:
        return self._tokenizer

    @property
    def model_name(self) -> str:
        return self.config.model_name

    @property
    def context_len(self) -> int:
        return self._context_len

    @property
    def sampling_defaults(self) -> Mapping[str, float]:
        return self._sampling_defaults

    def readiness(self) -> Readiness:
        return self.readings.readiness()

    def learn(self, target: Mapping[str, Any]) -> None:
        """Take over what a target's replica says of itself; called with every grant."""
        self._verdict_backend = str(target.get("verdict_backend", ""))
        context_len = int(target["max_context"])
        if context_len != self._context_len:
            self._context_len = context_len
            self.shared = replace(self.shared, context_len=context_len)

    def models(self) -> Sequence[ServedModel]:
        tiers = self.config.draft_tiers
        draft = shown(next(iter(tiers.values())).engine.model) if tiers else ""
        target = shown(self.config.target.engine.model)
        sources = offered(self.config.draft_sources)
        prompts = examples_of(self.config.target.engine.model)
        about = (self.model_name, self.context_len, self.started_s, target, draft, sources, prompts)
        return [ServedModel(*about, self.sampling_defaults, self._verdict_backend)]

    def effective(self, options: SpeculationOptions) -> SpeculationOptions:
        """Raises InvalidRequest naming the option that is not available here."""
        return self.controller.effective(options).options

    @property
    def num_running(self) -> int:
        """Answers in progress, including those that wait for a slot."""
        return len(self.runners)

    # ----------------------------------------------------------------- answers

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Chunk | Complete, None]:
        """Yields Chunks, one per verdict, then Complete; closing it gives both slots back."""
        if (refusal := self.refusal()) is not None:
            raise refusal
        if request.request_id in self.runners:
            raise InvalidRequest(f"a request with id {request.request_id!r} is running already", "request_id")
        placement = AdmittedPlacement(self.placement, self.queue)
        runner = Runner(request, self.shared, placement, self.tell)
        self.runners[request.request_id] = runner
        events = runner.run()
        try:
            async for event in events:
                yield event
        finally:
            del self.runners[request.request_id]
            await events.aclose()

    def refusal(self) -> Overloaded | None:
        """The error for a request that arrives now, if the limit of running and waiting requests is reached."""
        limit = self.config.most_requests
        if len(self.runners) >= limit:
            return Overloaded(f"{limit} requests are running or waiting already, the limit of this replica")
        return self.queue.refusal() if self.queue.max_queued and self.queue.is_full else None

    def abort(self, request_id: str) -> bool:
        """End a running answer; False if the id is not running."""
        runner = self.runners.get(request_id)
        if runner is None:
            return False
        runner.cancel()
        return True
