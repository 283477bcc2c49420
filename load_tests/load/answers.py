"""Requests and their answers: the two records from which everything else is computed."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from adasd.demo.tasks import Example
from adasd.requests import Mode


class Outcome(StrEnum):
    """How a request ended, from the client's point of view."""

    DONE = "done"  # a whole answer
    LEFT = "left"  # the client disconnected as planned
    REFUSED = "refused"  # an error that was expected, since the request was wrong
    OVERLOADED = "overloaded"  # 429, RESOURCE_EXHAUSTED
    FAILED = "failed"  # any other error, or an unexpected refusal
    CUT = "cut"  # still running when the run ended


GOOD = frozenset({Outcome.DONE, Outcome.LEFT, Outcome.REFUSED})


@dataclass(frozen=True, slots=True)
class Ask:
    """One request."""

    kind: str  # its part of the workload; figures are computed per kind
    messages: tuple[tuple[str, str], ...] = ()  # (role, content)
    max_tokens: int = 64
    mode: Mode | None = None  # None: the server's default
    temperature: float = 0.0
    seed: int | None = None
    example: Example | None = None  # judges the answer; None: not judged
    leave_after_chunks: int | None = None  # the client then disconnects
    pause_s: float = 0.0  # between reading one chunk and the next
    raw: bytes | None = None  # a body, over gRPC a message, that is sent unchanged and must be refused,
    may_be_valid: bool = False  # or may be answered, if it happens to be right
    path: str = "/v1/chat/completions"  # where a raw body goes over HTTP
    door: str = ""  # http | grpc; empty: in turn


@dataclass(slots=True)
class Reply:
    """The answer to one request; times in seconds since the start of the run."""

    ask: Ask
    door: str
    intended_s: float  # when it should have been sent; all latencies are measured from here
    sent_s: float  # when it was sent
    phase: str = ""
    chunks_s: list[float] = field(default_factory=list)  # chunks that carried tokens
    ended_s: float = 0.0
    num_tokens: int = 0
    num_drafted: int = 0
    num_accepted: int = 0
    text: str = ""
    outcome: Outcome = Outcome.CUT
    error: str | None = None

    @property
    def first_token_s(self) -> float | None:
        """From the intended time, so that a late generator or a full queue is included."""
        return self.chunks_s[0] - self.intended_s if self.chunks_s else None

    @property
    def total_s(self) -> float:
        return self.ended_s - self.intended_s

    @property
    def per_token_s(self) -> float | None:
        """Mean time per token after the first chunk (TPOT); None for answers of one chunk."""
        if len(self.chunks_s) < 2 or self.num_tokens < 2:
            return None
        return (self.chunks_s[-1] - self.chunks_s[0]) / (self.num_tokens - 1)

    @property
    def late_s(self) -> float:
        """The generator's own delay."""
        return self.sent_s - self.intended_s
