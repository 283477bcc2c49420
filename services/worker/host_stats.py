"""Counts of one worker's work since its start: mutable for the engine's thread, frozen for other threads."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from adasd.errors import AdasdError
from adasd.rounds import (
    CacheUse,
    CallFailed,
    DraftBlock,
    DraftCall,
    OpenCall,
    PrefixStats,
    Verdict,
    VerifyCall,
)
from services.observability.buckets import STEP_TOKENS


@dataclass(frozen=True, slots=True)
class HostStats:
    """The host's work since its start, at one moment."""

    num_slots: int
    num_sessions: int  # open slots
    num_pending: int  # sessions with a call in the engine
    num_steps: int  # forward passes
    num_calls: int  # calls answered
    num_failed: int  # calls answered with an error
    num_tokens: int  # tokens drafted or decided
    busy_s: float  # seconds inside forward passes
    batch_sizes: tuple[tuple[int, int], ...]  # (calls in a step, steps), by calls
    waited_s: float = 0.0  # seconds outside of forward passes, for calls that a round waits for
    computed_s: float = 0.0  # seconds inside forward passes, for the same calls
    num_optimistic: int = 0  # draft calls answered that were sent before a verdict
    step_tokens: tuple[tuple[float, int], ...] = ()  # (bound of STEP_TOKENS, steps up to it), by bound
    num_step_tokens: int = 0  # prompt tokens computed and tokens decided, in all steps
    prefix: PrefixStats = field(default_factory=PrefixStats)
    cache: CacheUse = field(default_factory=CacheUse)

    @property
    def mean_batch(self) -> float:
        """Calls per step; 0 before the first."""
        return sum(size * steps for size, steps in self.batch_sizes) / max(1, self.num_steps)


@dataclass(slots=True)
class HostCounters:
    """Only the engine's thread writes it; any thread may take a ``snapshot``."""

    num_steps: int = 0
    num_calls: int = 0
    num_failed: int = 0
    num_tokens: int = 0
    busy_s: float = 0.0
    batch_sizes: Counter[int] = field(default_factory=Counter)
    waited_s: float = 0.0
    computed_s: float = 0.0
    num_optimistic: int = 0
    step_tokens: Counter[float] = field(default_factory=Counter)
    num_step_tokens: int = 0
    prefix: PrefixStats = field(default_factory=PrefixStats)

    def add_step(self, num_calls: int, num_tokens: int, seconds: float, prefix: PrefixStats) -> None:
        """Count one forward pass."""
        self.num_steps += 1
        self.busy_s += seconds
        self.batch_sizes[num_calls] += 1
        self.num_step_tokens += num_tokens
        self.step_tokens[next((bound for bound in STEP_TOKENS if num_tokens <= bound), math.inf)] += 1
        self.prefix = prefix

    def add_reply(self, call: DraftCall | VerifyCall, reply: DraftBlock | Verdict | AdasdError) -> None:
        """Count one answered call."""
        self.num_calls += 1
        self.num_failed += isinstance(reply, AdasdError)
        self.num_tokens += num_decided(reply)
        if isinstance(call, DraftCall) and call.optimistic:
            self.num_optimistic += 1
        elif not isinstance(reply, AdasdError):
            self.waited_s += 1e-3 * reply.queue_ms
            self.computed_s += 1e-3 * reply.compute_ms

    def snapshot(self, num_slots: int, num_sessions: int, num_pending: int, cache: CacheUse) -> HostStats:
        """The counts so far, with the given current numbers."""
        return HostStats(
            num_slots=num_slots,
            num_sessions=num_sessions,
            num_pending=num_pending,
            num_steps=self.num_steps,
            num_calls=self.num_calls,
            num_failed=self.num_failed,
            num_tokens=self.num_tokens,
            busy_s=self.busy_s,
            batch_sizes=tuple(sorted(self.batch_sizes.copy().items())),
            waited_s=self.waited_s,
            computed_s=self.computed_s,
            num_optimistic=self.num_optimistic,
            step_tokens=tuple(sorted(self.step_tokens.copy().items())),
            num_step_tokens=self.num_step_tokens,
            prefix=self.prefix,
            cache=cache,
        )


def num_decided(reply: DraftBlock | Verdict | CallFailed | AdasdError) -> int:
    """Tokens that were drafted, or that a verdict added to the answer."""
    match reply:
        case DraftBlock():
            return len(reply.tokens)
        case Verdict():
            return reply.num_accepted + 1
        case _:
            return 0


def num_prefilled(call: OpenCall | DraftCall | VerifyCall, reply: DraftBlock | Verdict | CallFailed) -> int:
    """Prompt tokens computed for this reply. A prompt computed in chunks counts in the step of its last chunk."""
    if isinstance(call, VerifyCall) and isinstance(reply, Verdict) and call.keep_len == 0:
        return max(0, len(call.feed) - reply.cached_tokens)
    return 0
