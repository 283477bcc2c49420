"""What is asked and what came back: the two records that everything else is computed from."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from adasd.demo.tasks import Example
from adasd.requests import Mode


class Outcome(StrEnum):
    """How a request ended, from the client's side."""

    DONE = "done"  # a whole answer
    LEFT = "left"  # the client went away, as it was told to
    REFUSED = "refused"  # an error that the request deserved
    OVERLOADED = "overloaded"  # 429, RESOURCE_EXHAUSTED
    FAILED = "failed"  # any other error, or a refusal that was not deserved
    CUT = "cut"  # still running when the run ended


GOOD = frozenset({Outcome.DONE, Outcome.LEFT, Outcome.REFUSED})


@dataclass(frozen=True, slots=True)
class Ask:
    """One request."""

    kind: str  # the part of the workload it belongs to; figures are given for each
    messages: tuple[tuple[str, str], ...] = ()  # (role, content)
    max_tokens: int = 64
    mode: Mode | None = None  # None: the server's default
    temperature: float = 0.0
    seed: int | None = None
    example: Example | None = None  # judges the answer; None: nobody can say
    leave_after_chunks: int | None = None  # the client goes away then
    pause_s: float = 0.0  # between reading one chunk and the next
    raw: bytes | None = None  # a body that is wrong: sent as it is, and has to be refused
    door: str = ""  # http | grpc; empty: they take turns


@dataclass(slots=True)
class Reply:
    """One request's fate; times in seconds since the start of the run."""

    ask: Ask
    door: str
    intended_s: float  # when it should have been sent; all latencies count from here
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
        """From the intended time, so that a late generator or a full queue cannot hide."""
        return self.chunks_s[0] - self.intended_s if self.chunks_s else None

    @property
    def total_s(self) -> float:
        return self.ended_s - self.intended_s

    @property
    def per_token_s(self) -> float | None:
        """Mean time per token behind the first chunk's (TPOT); None for answers of one chunk."""
        if len(self.chunks_s) < 2 or self.num_tokens < 2:
            return None
        return (self.chunks_s[-1] - self.chunks_s[0]) / (self.num_tokens - 1)

    @property
    def late_s(self) -> float:
        """The generator's own delay."""
        return self.sent_s - self.intended_s
