"""The messages of the public gRPC interface, independent of their encoding; None means "not sent"."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from adasd.errors import Overloaded
from adasd.requests import SamplingParams, SpeculationOptions, TextOptions
from adasd.results import Chunk, Complete

GENERATION_SERVICE = "adasd.v1.Generation"
"""Full name of the service, as health checks and reflection use it."""


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a conversation."""

    role: str  # system | user | assistant
    content: str


@dataclass(frozen=True, slots=True)
class GenerateCall:
    """A call for one answer; the input is not tokenised and nothing is checked yet."""

    input: str | tuple[ChatMessage, ...] | tuple[int, ...]  # text, conversation or token ids; not empty
    request_id: str = ""  # empty: the server chooses
    model: str = ""  # empty: the only one served
    sampling: SamplingParams = field(default_factory=SamplingParams)
    left_unset: frozenset[str] = frozenset()  # options of SET_BY_MODELS that the caller left to the model
    speculation: SpeculationOptions = field(default_factory=SpeculationOptions)
    timeout_s: float | None = None  # seconds from arrival
    texts: TextOptions = field(default_factory=TextOptions)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The served model and the methods that requests may name."""

    model: str  # name that requests use
    target: str  # folder name or id
    draft: str | None  # None: plain decoding only
    max_context: int  # tokens of prompt + answer
    vocab_size: int
    defaults: SpeculationOptions
    drafting: tuple[str, ...]  # drafting methods that requests may name
    acceptance: tuple[str, ...]
    drafts: tuple[str, ...] = ()  # draft sources that requests may name


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """The state of the server as a whole."""

    version: str
    ready: bool
    degraded: bool  # serves without a draft model, or with a full disk
    reasons: tuple[str, ...]  # why not ready or degraded
    uptime_s: float


@dataclass(frozen=True, slots=True)
class ReplicaLoad:
    """The load of one worker replica."""

    role: str  # draft | target
    replica: str
    num_slots: int
    num_sessions: int
    num_pending: int  # calls in its current batch
    num_tokens: int  # drafted or decided since its start


@dataclass(frozen=True, slots=True)
class Loads:
    """The load of the whole deployment."""

    replicas: tuple[ReplicaLoad, ...]
    num_running: int  # answers in progress
    num_waiting: int  # requests that wait for a slot


class GenerationService(Protocol):
    """Implements the public interface; errors of adasd.errors become statuses (transport.status)."""

    def refusal(self) -> Overloaded | None:
        """The error for any call of ``generate`` that arrives now; asked before the call is even read."""
        ...

    def generate(self, request_id: str, call: GenerateCall) -> AsyncGenerator[Chunk | Complete, None]:
        """Yields Chunks, then Complete. Closed early (``aclose``) when the client disconnects."""
        ...

    async def abort(self, request_ids: Sequence[str]) -> tuple[str, ...]:
        """Stop these; returns those that were running."""
        ...

    async def model_info(self, model: str) -> ModelInfo: ...

    async def server_info(self) -> ServerInfo: ...

    async def loads(self) -> Loads: ...
