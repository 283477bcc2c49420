"""The public gRPC interface over a Backend: a call becomes the same request as an HTTP body."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import asdict, replace
from typing import Any

from adasd.errors import InvalidRequest, Overloaded, UnknownModel
from adasd.methods.registry import acceptance_methods, drafting_methods
from adasd.requests import GenerationRequest, SpeculationOptions
from adasd.results import Chunk, Complete
from adasd.text.tools import without_words
from services.gateway.backend import Backend
from services.gateway.peers import Peers
from services.gateway.predicted import with_prediction
from services.gateway.prompts import Prompt, chat_prompt, ids_prompt, text_prompt
from services.gateway.readers import read_aside
from services.gateway.validation import check_model, check_options, checked, fitted
from services.gateway.version import version
from services.observability.logs import REQUEST_ID
from services.observability.service_events import Observer, RequestRefused, code_of, ignore
from services.transport.generation_messages import (
    ChatMessage,
    GenerateCall,
    Loads,
    ModelInfo,
    ServerInfo,
)


class GatewayService:
    """Implements services.transport.generation_messages.GenerationService."""

    def __init__(self, backend: Backend, tell: Observer = ignore, peers: Peers | None = None) -> None:
        self._backend, self._tell, self._peers = backend, tell, peers
        self._running: dict[str, str] = {}  # the caller's request id -> the backend's id
        self._started_s = time.monotonic()

    def refusal(self) -> Overloaded | None:
        """The backend's, told as an event."""
        refusal = self._backend.refusal()
        if refusal is not None:
            self._tell(RequestRefused("grpc", refusal.code.value))
        return refusal

    async def generate(self, request_id: str, call: GenerateCall) -> AsyncGenerator[Chunk | Complete, None]:
        """Yields Chunks, then Complete. Running requests must have distinct ids, or Abort would be ambiguous."""
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
        if request_id in self._running:
            raise InvalidRequest(
                f"request {request_id!r} is running already; choose another id", "request_id"
            )
        REQUEST_ID.set(request_id)
        own_id = f"grpc-{uuid.uuid4().hex}"
        self._running[request_id] = own_id
        try:
            request = await read_aside(lambda: self._read(call, own_id))
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
        """The served model, and the methods that requests may name."""
        served = {one.id: one for one in self._backend.models()}
        name = model or self._backend.model_name
        if name not in served:
            raise UnknownModel(name, ", ".join(served))
        return ModelInfo(
            model=name,
            target=served[name].target,
            draft=served[name].draft or None,
            max_context=served[name].context_len,
            vocab_size=self._backend.tokenizer.vocab_size,
            defaults=self._backend.effective(SpeculationOptions()),
            drafting=tuple(method.name for method in drafting_methods()),
            acceptance=tuple(method.name for method in acceptance_methods()),
            drafts=tuple(source.name for source in served[name].drafts),
        )

    async def server_info(self) -> ServerInfo:
        """The state of the server as a whole."""
        state = self._backend.readiness()
        uptime_s = time.monotonic() - self._started_s
        return ServerInfo(version(), state.ready, state.degraded, state.reasons, uptime_s)

    async def loads(self) -> Loads:
        """Of all replicas; of this one alone if it has no peers."""
        if self._peers is not None:
            return await self._peers.loads()
        return Loads(replicas=(), num_running=self._backend.num_running, num_waiting=0)

    def _read(self, call: GenerateCall, own_id: str) -> GenerationRequest:
        check_model(call.model, self._backend)
        defaults = self._backend.sampling_defaults
        of_model: dict[str, Any] = {
            name: value for name, value in defaults.items() if name in call.left_unset
        }
        sampling = replace(call.sampling, **of_model)
        check_options(call.texts)
        names: dict[str, str] = {}
        if call.texts.bad_words:
            if sampling.grammar is not None:
                raise InvalidRequest(
                    "bad_words and grammar both say what the answer looks like; send one", "bad_words"
                )
            sampling = replace(sampling, grammar=without_words(call.texts.bad_words))
            names["grammar"] = "bad_words"
        asked = GenerationRequest(own_id, (), sampling, call.speculation, call.timeout_s)
        request = checked(asked, self._backend, names)
        request = with_prediction(request, call.texts.prediction, self._backend, "prediction")
        return fitted(request, self._prompt(call.input, call.texts.continue_final_message), self._backend)

    def _prompt(
        self, content: str | tuple[ChatMessage, ...] | tuple[int, ...], continue_final: bool
    ) -> Prompt:
        if isinstance(content[0], ChatMessage):
            turns = [asdict(turn) for turn in content if isinstance(turn, ChatMessage)]
            return chat_prompt(turns, self._backend, continue_final=continue_final)
        if continue_final:
            raise InvalidRequest(
                "continue_final_message continues a conversation; send chat, or leave it out",
                "continue_final_message",
            )
        if isinstance(content, str):
            return text_prompt(content, self._backend, "text")
        ids = [token_id for token_id in content if isinstance(token_id, int)]
        return ids_prompt(ids, self._backend.tokenizer, "token_ids")
