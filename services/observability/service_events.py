"""Events of requests, which metrics, logs and traces observe. ``at_s`` is monotonic time in seconds."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from adasd.errors import AdasdError, Code
from adasd.requests import GenerationRequest, Mode
from adasd.results import Chunk, Complete, FinishReason
from adasd.rounds import BlockLate, RoundCompleted, SlotGranted, SlotLost

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RequestStarted:
    """A request was admitted."""

    request_id: str
    mode: Mode
    num_prompt_tokens: int
    at_s: float
    request: GenerationRequest | None = None  # for observers that need its options


@dataclass(frozen=True, slots=True)
class ChunkMade:
    """A verdict added tokens to the answer."""

    request_id: str
    chunk: Chunk
    at_s: float


@dataclass(frozen=True, slots=True)
class RequestEnded:
    """A request ended. Without ``complete`` and ``error`` the client left."""

    request_id: str
    at_s: float
    complete: Complete | None = None
    error: Exception | None = None

    @property
    def outcome(self) -> str:
        """The finish reason, or the code of the error."""
        if self.error is not None:
            return code_of(self.error).value
        return (self.complete.finish_reason if self.complete else FinishReason.CANCELLED).value


@dataclass(frozen=True, slots=True)
class RequestRefused:
    """HTTP or gRPC answered with an error and no token."""

    door: str  # http | grpc
    code: str  # adasd.errors.Code
    num: int = 1  # as many requests, which the proxy in front refused


@dataclass(frozen=True, slots=True)
class AnswerAudited:
    """An adaptive answer was scored again by the exact rule (services.orchestrator.audit)."""

    choice: str  # how the exact rule chooses: greedy | seeded | unseeded
    num_tokens: int
    num_different: int  # tokens that the exact rule would have chosen differently


@dataclass(frozen=True, slots=True)
class AuditEnded:
    """An audit ended."""

    outcome: str  # done | given_up | failed | left_out


Event = (
    RequestStarted
    | SlotGranted
    | SlotLost
    | BlockLate
    | ChunkMade
    | RoundCompleted
    | RequestEnded
    | RequestRefused
    | AnswerAudited
    | AuditEnded
)
Observer = Callable[[Event], None]


def code_of(error: Exception) -> Code:
    """The error's code; INTERNAL for errors that are not from adasd.errors."""
    return error.code if isinstance(error, AdasdError) else Code.INTERNAL


def ignore(_: Event) -> None:
    """An observer that does nothing."""


def to_all(*observers: Observer) -> Observer:
    """One observer that passes events to all. Errors of observers are logged and never fail a request."""

    def tell(event: Event) -> None:
        for observer in observers:
            try:
                observer(event)
            except Exception:
                log.exception("an observer failed on %s", type(event).__name__)

    return tell
