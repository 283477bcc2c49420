"""What a scenario works with: loads, notes and problems. The runner sets it up and tears it down."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cluster.simulation.objective import Objective
from load_tests.load.answers import GOOD, Reply
from load_tests.load.generator import Generator
from load_tests.load.server_under_test import Server

SETTLE_S = 60.0


@dataclass(frozen=True, slots=True)
class Options:
    """Options of the command line; None: the scenario's own value."""

    rate_per_s: float | None = None
    seconds: float | None = None
    num_requests: int | None = None
    num_clients: int | None = None
    max_tokens: int | None = None
    trace: Path | None = None
    doors: tuple[str, ...] = ("http", "grpc")
    objective: Objective = field(default_factory=Objective)
    seed: int = 0


@dataclass
class Stage:
    """One run as its scenario sees it."""

    server: Server
    options: Options
    generator: Generator
    notes: list[str] = field(default_factory=list)  # findings
    problems: list[str] = field(default_factory=list)  # failures
    found: dict[str, Any] = field(default_factory=dict)  # figures of this scenario only, for the JSON file

    def chance(self) -> np.random.Generator:
        """For arrivals: the same for the same seed."""
        return np.random.default_rng(self.options.seed)

    async def settle(self, timeout_s: float = SETTLE_S) -> None:
        """Wait until all requests are answered; those that take longer are cut."""
        await self.generator.settle(timeout_s)

    def of(self, phase: str) -> list[Reply]:
        """The answers of one phase."""
        return [answer for answer in self.generator.answers if answer.phase == phase]

    def expect_no_failure(self, what: str, answers: Iterable[Reply]) -> None:
        """Record a problem for answers that did not end well."""
        bad = [answer for answer in answers if answer.outcome not in GOOD]
        if bad:
            first = bad[0]
            self.problems.append(
                f"{len(bad)} {what} did not end well; the first at {first.intended_s:.1f} s: {first.outcome.value}, "
                f"{first.error}"
            )
