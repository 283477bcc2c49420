"""One thread or all of them for a pass: decided by how long such passes took lately."""

from __future__ import annotations

import math
import os

ALONE_BELOW = 100_000_000
"""Products in a pass below which one thread computes it: in one to three milliseconds; waking another may take one."""
FEW_TOKENS = 8
"""Tokens from which a pass is limited by products rather than by reading weights, so that threads are the usual way."""
MARGIN = 0.1
"""Relative gain from which on the other way is preferred: times vary, and a second thread is also missed elsewhere."""
FIRST_TRIAL = 8
"""Passes of one class before the first trial of the other way."""
TRIAL_SHARE = 0.01
"""Share of the time that trials of the slower way may cost; so they are rare where it is much slower."""
REMEMBERED, REMEMBERED_TRIALS = 16, 4
"""Passes over which the mean of the preferred way is taken, and of the other one, whose passes lie further back."""
MOST_THREADS = 8
"""Of a model whose number of threads is not set."""


def usual_num_threads() -> int:
    """One per core that this process may use, within reason."""
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(num_cores, MOST_THREADS)


class TeamSize:
    """Whether a pass is best computed by one thread alone.

    Threads that share a pass wait for each other several times per layer. That pays if each has a core of its own and
    the pass has enough to share; where another program takes one of the cores, it can cost more than it brings. Both
    change while serving, so both ways are timed. Lengths of a pass between two powers of two are one class.
    """

    def __init__(self, num_threads: int, products_per_token: int = ALONE_BELOW) -> None:
        """``products_per_token``: of two numbers, by the weights of all layers."""
        self._always_alone = ALONE_BELOW / products_per_token if num_threads > 1 else math.inf  # tokens
        self._classes: dict[int, _Times] = {}

    def is_alone(self, num_tokens: int) -> bool:
        """Whether one thread should compute a pass over so many tokens."""
        return num_tokens < self._always_alone or self._of(num_tokens).alone

    def learn(self, num_tokens: int, alone: bool, seconds: float) -> None:
        """``seconds``: what a pass over ``num_tokens`` took, computed alone or not."""
        if num_tokens >= self._always_alone:
            self._of(num_tokens).learn(alone, seconds / num_tokens)

    def _of(self, num_tokens: int) -> _Times:
        number = num_tokens.bit_length()
        if number not in self._classes:
            self._classes[number] = _Times(usually_alone=num_tokens < FEW_TOKENS)
        return self._classes[number]


class _Times:
    """Of one class of lengths; ``alone``: how the next pass is computed."""

    def __init__(self, *, usually_alone: bool) -> None:
        self.alone = self._prefers_alone = self._usually_alone = usually_alone
        self._means: dict[bool, float] = {}  # seconds per token, alone or not
        self._pause = FIRST_TRIAL  # passes until the next trial

    def learn(self, alone: bool, seconds: float) -> None:
        is_trial = alone != self._prefers_alone
        before = self._means.get(alone, seconds)
        self._means[alone] = before + (seconds - before) / (REMEMBERED_TRIALS if is_trial else REMEMBERED)
        self._pause -= 1
        if len(self._means) == 2:
            faster, slower = sorted(self._means.values())
            usual, other = self._means[self._usually_alone], self._means[not self._usually_alone]
            self._prefers_alone = self._usually_alone == (usual < (1 + MARGIN) * other)
            if is_trial:
                self._pause = math.ceil((slower / faster - 1) / TRIAL_SHARE)
        self.alone = self._prefers_alone != (self._pause <= 0)
