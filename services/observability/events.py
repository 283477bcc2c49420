"""What happens to requests, as frozen facts; metrics and logs subscribe. ``at_s`` is a monotonic time."""

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
    """A request was taken on."""

    request_id: str
    mode: Mode
    num_prompt_tokens: int
    at_s: float
    request: GenerationRequest | None = None  # for observers that want to know more of it


@dataclass(frozen=True, slots=True)
class ChunkMade:
    """One verification step added tokens to the answer."""

    request_id: str
    chunk: Chunk
    at_s: float


@dataclass(frozen=True, slots=True)
class RequestEnded:
    """Neither ``complete`` nor ``error``: the client left."""

    request_id: str
    at_s: float
    complete: Complete | None = None
    error: Exception | None = None

    @property
    def outcome(self) -> str:
        """A finish reason, or the code of the error."""
        if self.error is not None:
            return code_of(self.error).value
        return (self.complete.finish_reason if self.complete else FinishReason.CANCELLED).value


@dataclass(frozen=True, slots=True)
class RequestRefused:
    """A door answered with an error and without a token."""

    door: str  # http | grpc
    code: str  # adasd.errors.Code


@dataclass(frozen=True, slots=True)
class AnswerAudited:
    """An adaptive answer was scored again by the exact rule (services.orchestrator.audit)."""

    choice: str  # how the exact rule chooses: greedy | seeded | unseeded
    num_tokens: int
    num_different: int  # the exact rule would have written another token there


@dataclass(frozen=True, slots=True)
class AuditEnded:
    """One audit is over."""

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
    """An unforeseen error is an internal one."""
    return error.code if isinstance(error, AdasdError) else Code.INTERNAL


def ignore(_: Event) -> None:
    """An observer that looks away."""


def to_all(*observers: Observer) -> Observer:
    """Tell every observer; one that fails costs figures, never an answer."""

    def tell(event: Event) -> None:
        for observer in observers:
            try:
                observer(event)
            except Exception:
                log.exception("an observer failed on %s", type(event).__name__)

    return tell
