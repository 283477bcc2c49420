"""Passes of fixed shapes, whose inputs are replaced in place, so that a CUDA graph can repeat them.

A pass of R sequences of at most N tokens over at most L cached tokens is rounded up to a *bucket*. Padding writes to
the scratch place of the cache and attends to the first key of slot 0, so that nothing is divided by zero; its results
are never read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from adasd.engine.cache.kv_cache import KVCache
from adasd.engine.forward.batch import ForwardBatch, Group
from adasd.engine.work import StepInput

MAX_WIDTH = 32
"""Most tokens per sequence: room for a block of 16 and the tokens fed before it. Chunks of prompts are not padded."""

MAX_TOKENS = 256
"""Most tokens of a bucket: a larger pass is compute-bound, so padding would cost time."""

MIN_LONGEST = 512
"""Cached tokens of the smallest bucket."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """The shape of a pass; every number is a power of two or the maximum."""

    num_sequences: int  # R
    width: int  # N
    longest: int  # L

    @property
    def num_tokens(self) -> int:
        return self.num_sequences * self.width

    @classmethod
    def of(cls, num_sequences: int, width: int, longest: int, cache: KVCache) -> Bucket | None:
        """The smallest bucket that holds such a pass; None: no bucket is large enough."""
        rounded = cls(
            _power(num_sequences, 1),
            _power(width, 1),
            min(_power(longest, MIN_LONGEST), cache.layout.max_context),
        )
        fits = width <= MAX_WIDTH and rounded.num_tokens <= max(MAX_TOKENS, rounded.num_sequences)
        return rounded if fits else None

    @classmethod
    def all(cls, cache: KVCache) -> Iterator[Bucket]:
        """Every bucket that passes over this cache can need, largest first."""
        found = {
            cls.of(num, width, longest, cache)
            for num in _powers(1, _power(cache.layout.num_slots, 1))
            for width in _powers(1, MAX_WIDTH)
            for longest in _powers(MIN_LONGEST, max(MIN_LONGEST, cache.layout.max_context) * 2 - 1)
        }
        buckets = [bucket for bucket in found if bucket is not None]
        return iter(sorted(buckets, key=lambda one: (one.num_tokens, one.longest, one.width), reverse=True))


class Padded(ForwardBatch):
    """A pass of a bucket's shape over one cache; its tensors never move."""

    def __init__(self, bucket: Bucket, cache: KVCache) -> None:
        super().__init__([], cache.layout, cache.device)
        self.bucket, self.scratch = bucket, cache.scratch
        num, tokens = bucket.num_sequences, bucket.num_tokens
        self._numbers = torch.zeros(3 * tokens + num, dtype=torch.long, device=cache.device)
        ids_T, positions_T, where_T, slots_R = torch.split(self._numbers, [tokens] * 3 + [num])
        self.slots_R = slots_R
        where_T.fill_(self.scratch)
        self._flat = (ids_T, positions_T, where_T)
        self.wanted = None
        positions_RN = positions_T.view(num, bucket.width)
        self._group = Group(
            0, tokens, num, bucket.width, bucket.longest, self.slots_R, positions_RN, None, None, exact=False
        )
        self.groups = (self._group,)

    def fill(self, inputs: Sequence[StepInput]) -> None:
        """Load these inputs, with one non-blocking copy to the device."""
        width, idle = self.bucket.width, self.bucket.num_sequences - len(inputs)
        ids: list[int] = []
        positions: list[int] = []
        where: list[int] = []
        for one in inputs:
            padding = width - len(one.tokens)
            ids += [*one.tokens, *[0] * padding]
            positions += [*range(one.start, one.end), *[0] * padding]
            for run in self.layout.runs(one.slot, one.start, one.end):
                where += run
            where += [self.scratch] * padding
        empty = idle * width
        slots = [one.slot for one in inputs] + [0] * idle
        numbers = [*ids, *[0] * empty, *positions, *[0] * empty, *where, *[self.scratch] * empty, *slots]
        self._numbers.copy_(torch.tensor(numbers), non_blocking=True)

    def forget_masks(self) -> None:
        """Drop the cached masks: each pass makes its own from its inputs."""
        self._group.masks.clear()


def _power(number: int, least: int) -> int:
    """The smallest power of two >= ``number``, but at least ``least`` (itself a power of two)."""
    return max(least, 1 << (number - 1).bit_length())


def _powers(first: int, last: int) -> Iterator[int]:
    while first <= last:
        yield first
        first *= 2
