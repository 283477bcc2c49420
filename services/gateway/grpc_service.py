"""The public gRPC interface over a Backend; fields are judged by the same rules as over HTTP."""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import asdict, replace
from typing import Any

from adasd.errors import InvalidRequest, UnknownModel
from adasd.methods.registry import ACCEPTANCE, DRAFTING
from adasd.requests import GenerationRequest, GrammarKind, SpeculationOptions
from adasd.results import Chunk, Complete
from services.gateway.backend import Backend
from services.gateway.peers import Peers
from services.gateway.schema import MAX_TOP_LOGPROBS, ChatBody, CompletionBody
from services.gateway.validation import check_body, read_chat, read_completion
from services.gateway.version import version
from services.observability.events import Observer, RequestRefused, code_of, ignore
from services.observability.logs import REQUEST_ID
from services.transport.public import (
    ChatMessage,
    GenerateCall,
    Loads,
    ModelInfo,
    SamplingOptions,
    ServerInfo,
)

MAX_REQUEST_ID_CHARS = 256
GRAMMAR_FIELD = {GrammarKind.JSON_SCHEMA: "json", GrammarKind.REGEX: "regex", GrammarKind.LARK: "grammar"}
"""Where a grammar stands in an HTTP body, whose rules hold here too."""


class GatewayService:
    """Implements services.transport.public.GenerationService."""

    def __init__(self, backend: Backend, tell: Observer = ignore, peers: Peers | None = None) -> None:
        self._backend, self._tell, self._peers = backend, tell, peers
        self._running: dict[str, str] = {}  # the caller's request id -> the backend's
        self._started_s = time.monotonic()

    async def generate(self, request_id: str, call: GenerateCall) -> AsyncGenerator[Chunk | Complete, None]:
        """Chunks, then Complete. Two running requests may not share an id, or Abort would be ambiguous."""
        has_begun = False
        try:
            async with aclosing(self._answer(request_id, call)) as events:
                async for event in events:
                    has_begun = True
                    yield event
        except Exception as error:
            if not has_begun:
                self._tell(RequestRefused("grpc", code_of(error).value))
            raise

    async def _answer(self, request_id: str, call: GenerateCall) -> AsyncGenerator[Chunk | Complete, None]:
        if len(request_id) > MAX_REQUEST_ID_CHARS:
            raise InvalidRequest(
                f"request_id has {len(request_id)} characters, the limit is {MAX_REQUEST_ID_CHARS}",
                "request_id",
            )
        if request_id in self._running:
            raise InvalidRequest(
                f"request {request_id!r} is running already; choose another id", "request_id"
            )
        REQUEST_ID.set(request_id)
        own_id = f"grpc-{uuid.uuid4().hex}"
        self._running[request_id] = f"{own_id}-0"
        try:
            request = await asyncio.to_thread(self._read, call, own_id)
            async with aclosing(self._backend.generate(request)) as events:
                async for event in events:
                    yield event
        finally:
            del self._running[request_id]

    async def abort(self, request_ids: Sequence[str]) -> tuple[str, ...]:
        """Stop these on every replica; returns those that were running."""
        here = self.abort_here(request_ids)
        if self._peers is None:
            return here
        elsewhere = await self._peers.abort(request_ids)
        return tuple(name for name in dict.fromkeys(request_ids) if name in here or name in elsewhere)

    def abort_here(self, request_ids: Sequence[str]) -> tuple[str, ...]:
        """Stop those that run on this replica; returns them."""
        running = [
            (name, self._running[name]) for name in dict.fromkeys(request_ids) if name in self._running
        ]
        return tuple(name for name, own_id in running if self._backend.abort(own_id))

    async def model_info(self, model: str) -> ModelInfo:
        """What is served and with which methods."""
        served = {one.id: one for one in self._backend.models()}
        name = model or self._backend.model_name
        if name not in served:
            raise UnknownModel(name, ", ".join(served))
        defaults = self._backend.effective(SpeculationOptions())
        return ModelInfo(
            model=name,
            target=served[name].target,
            draft=served[name].draft or None,
            max_context=served[name].context_len,
            vocab_size=self._backend.tokenizer.vocab_size,
            defaults=SpeculationOptions(
                defaults.mode,
                defaults.drafting,
                defaults.acceptance,
                defaults.max_draft_tokens,
                defaults.max_relaxed_fraction,
                defaults.draft,
            ),
            drafting=tuple(policy.name for policy in DRAFTING),
            acceptance=tuple(policy.name for policy in ACCEPTANCE),
            drafts=tuple(source.name for source in served[name].drafts),
        )

    async def server_info(self) -> ServerInfo:
        """The state of the server as a whole."""
        state = self._backend.readiness()
        uptime_s = time.monotonic() - self._started_s
        return ServerInfo(version(), state.ready, state.degraded, state.reasons, uptime_s)

    async def loads(self) -> Loads:
        """Of all replicas; of this one alone where it knows no others."""
        if self._peers is not None:
            return await self._peers.loads()
        return Loads(replicas=(), num_running=self._backend.num_running, num_waiting=0)

    def _read(self, call: GenerateCall, own_id: str) -> GenerationRequest:
        self._check_logprobs(call.sampling)
        if call.timeout_s is not None and not (math.isfinite(call.timeout_s) and call.timeout_s > 0):
            raise InvalidRequest(f"timeout_s is {call.timeout_s}; it must be above 0 seconds", "timeout_s")
        if call.input and isinstance(call.input, tuple) and isinstance(call.input[0], ChatMessage):
            messages = [asdict(turn) for turn in call.input if isinstance(turn, ChatMessage)]
            order = read_chat(check_body(_fields(call, messages=messages), ChatBody), self._backend, own_id)
        else:
            prompt = call.input if isinstance(call.input, str) else list(call.input)
            body = check_body(_fields(call, prompt=prompt), CompletionBody)
            order = read_completion(body, self._backend, own_id)
        asked = call.sampling
        sampling = replace(
            order.requests[0].sampling, logprobs=asked.logprobs, prompt_logprobs=asked.prompt_logprobs
        )
        return replace(order.requests[0], sampling=sampling, timeout_s=call.timeout_s)

    def _check_logprobs(self, sampling: SamplingOptions) -> None:
        for name in ("logprobs", "prompt_logprobs"):
            if (value := getattr(sampling, name)) is not None and value > MAX_TOP_LOGPROBS:
                raise InvalidRequest(
                    f"{name} is {value}, at most {MAX_TOP_LOGPROBS} likeliest tokens are reported", name
                )


def _fields(call: GenerateCall, **content: Any) -> dict[str, Any]:
    """The call as the fields of an HTTP body; unset ones are left out."""
    sampling = asdict(replace(call.sampling, grammar=None, logprobs=None, prompt_logprobs=None))
    if (grammar := call.sampling.grammar) is not None:
        sampling["structured_outputs"] = {GRAMMAR_FIELD[grammar.kind]: grammar.text}
    sampling["stop"] = list(call.sampling.stop)
    sampling["stop_token_ids"] = list(call.sampling.stop_token_ids)
    sampling["logit_bias"] = {str(token_id): bias for token_id, bias in call.sampling.logit_bias}
    speculation = {name: value for name, value in asdict(call.speculation).items() if value is not None}
    fields = {"model": call.model or None, "speculation": speculation, **sampling, **content}
    return {name: value for name, value in fields.items() if value is not None}
