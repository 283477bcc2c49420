"""Checks for a load far above capacity: every request gets a status, and soon."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from load_tests.load.answers import Outcome, Reply
from load_tests.load.generator import percentile

AT_KNEE, OVERLOAD = "at the knee", "overload"
ASK_HEALTH_EVERY_S = 0.1
HEALTH_TIMEOUT_S = 30.0
REFUSED_WITHIN_S = 0.2
HEALTH_WITHIN_S = 0.1
FIRST_TOKEN_RATIO = 1.5
"""Time to first token of admitted requests, relative to that at the knee."""


@dataclass(frozen=True, slots=True)
class OverloadFigures:
    """99th percentiles in seconds; None without values."""

    num_answered: int
    num_refused: int
    num_without_status: int  # failed, or cut off at the end
    refused_p99_s: float | None
    health_p99_s: float | None
    first_token_p99_s: float | None  # of admitted requests
    first_token_at_knee_p99_s: float | None

    def problems(self) -> Iterator[str]:
        """What failed, one sentence each."""
        if self.num_without_status:
            yield f"{self.num_without_status} requests ended without a whole answer and without a refusal"
        if not self.num_answered:
            yield "nothing was answered under overload"
        if (self.refused_p99_s or 0.0) > REFUSED_WITHIN_S:
            yield f"refusals took {1e3 * (self.refused_p99_s or 0):.0f} ms (p99), the limit is 200 ms"
        if self.health_p99_s is None or self.health_p99_s > HEALTH_WITHIN_S:
            yield f"/health took {1e3 * (self.health_p99_s or 0):.0f} ms (p99), the limit is 100 ms"
        now_s, knee_s = self.first_token_p99_s, self.first_token_at_knee_p99_s
        if now_s and knee_s and now_s > FIRST_TOKEN_RATIO * knee_s:
            yield f"admitted requests waited {now_s / knee_s:.1f} times as long for the first token as at the knee"

    def __str__(self) -> str:
        return (
            f"overload: {self.num_answered} answered, {self.num_refused} refused ({_ms(self.refused_p99_s)} p99), "
            f"{self.num_without_status} without a status; first token {_ms(self.first_token_p99_s)} p99, "
            f"at the knee {_ms(self.first_token_at_knee_p99_s)}; /health {_ms(self.health_p99_s)} p99"
        )


def judge(at_knee: Sequence[Reply], over: Sequence[Reply], health_s: Sequence[float]) -> OverloadFigures:
    """Figures of the load above the knee, with the time to first token at it.

    Times count from sending: the loop is open, so the generator is late by its own fault alone, and at such a rate it
    is, on a machine that it shares with the server. The report says by how much.
    """
    refused = [reply for reply in over if reply.outcome is Outcome.OVERLOADED]
    done = [reply for reply in over if reply.outcome is Outcome.DONE]
    return OverloadFigures(
        num_answered=len(done),
        num_refused=len(refused),
        num_without_status=len(over) - len(done) - len(refused),
        refused_p99_s=p99([reply.total_s - reply.late_s for reply in refused]),
        health_p99_s=p99(health_s),
        first_token_p99_s=p99([first_token_s(reply) for reply in done]),
        first_token_at_knee_p99_s=p99([first_token_s(reply) for reply in at_knee]),
    )


def first_token_s(reply: Reply) -> float | None:
    """From sending to the first token."""
    return None if reply.first_token_s is None else reply.first_token_s - reply.late_s


@asynccontextmanager
async def asking_health(url: str) -> AsyncIterator[list[float]]:
    """Seconds that ``/health`` took, polled while the context is open; HEALTH_TIMEOUT_S for a failure."""
    took_s: list[float] = []

    async def ask() -> None:
        async with httpx.AsyncClient(base_url=url, timeout=HEALTH_TIMEOUT_S) as client:
            while True:
                began_s = time.monotonic()
                try:
                    is_well = (await client.get("/health")).status_code == 200
                except httpx.HTTPError:
                    is_well = False
                took_s.append(time.monotonic() - began_s if is_well else HEALTH_TIMEOUT_S)
                await asyncio.sleep(ASK_HEALTH_EVERY_S)

    asking = asyncio.create_task(ask())
    try:
        yield took_s
    finally:
        asking.cancel()
        await asyncio.wait([asking])


def p99(seconds: Sequence[float | None]) -> float | None:
    """The 99th percentile of the known ones; None without any."""
    known = sorted(value for value in seconds if value is not None)
    return percentile(known, 0.99) if known else None


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1e3 * seconds:.0f} ms"
