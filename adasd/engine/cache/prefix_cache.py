"""Contiguous slots with prefix reuse. Pure bookkeeping, no tensors.

A slot keeps its keys and values after its session ends, until another session needs the slot. A prompt that shares a
prefix with such a slot does not compute the prefix again. Keys and values at a position depend only on the tokens up
to it, so comparing tokens is enough.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from adasd.engine.cache.layout import Held, SlotPlacement

MIN_COPY = 8
"""A prefix that another slot holds is copied from this many tokens on; a shorter one is computed."""


class PrefixCache:
    """A ``CacheLayout`` of contiguous slots: slot s begins at place ``s * max_context``.

    Empty slots are taken first (lowest index first), then the least recently used. Without ``reuse`` a slot is empty
    as soon as it is freed.
    """

    def __init__(self, num_slots: int, max_context: int, reuse: bool = False) -> None:
        self.num_slots, self.max_context, self.reuse = num_slots, max_context, reuse
        self.num_places = num_slots * max_context
        self._empty: list[int] = []  # heap of slots used before; slots from _num_used on were never used
        self._num_used = 0
        self._held: dict[int, list[int]] = {}  # least recently used first

    def __iter__(self) -> Iterator[int]:
        yield from self._empty
        yield from range(self._num_used, self.num_slots)
        yield from self._held

    def allocate(self, prompt: Sequence[int], in_use: Iterable[Held]) -> SlotPlacement:
        """As the protocol says. A free slot is copied from, not taken over, if less than half of it would be reused:
        later prompts may reuse the rest."""
        source, num_cached = self._longest_prefix(list(prompt[:-1]), in_use) if self.reuse else (-1, 0)
        next_free = self._next_free()
        if source in self._held and (source == next_free or 2 * num_cached >= len(self._held[source])):
            del self._held[source]
            return SlotPlacement(source, num_cached)
        if next_free in self._held:
            del self._held[next_free]
        elif self._empty:
            heapq.heappop(self._empty)
        else:
            self._num_used += 1
        if num_cached < MIN_COPY:
            return SlotPlacement(next_free)
        if source in self._held:  # used just now
            self._held[source] = self._held.pop(source)
        return SlotPlacement(next_free, num_cached, source)

    def extend(self, slot: int, length: int) -> None:
        """Every slot has room for the whole context."""
        assert length <= self.max_context, (slot, length)

    def runs(self, slot: int, start: int, end: int) -> tuple[range]:
        first = slot * self.max_context
        return (range(first + start, first + end),)

    def place(self, slot: Any, position: Any) -> Any:
        return slot * self.max_context + position

    def free(self, slot: int, tokens: list[int]) -> None:
        if tokens and self.reuse:
            self._held[slot] = tokens
        else:
            heapq.heappush(self._empty, slot)

    def held(self) -> Iterable[Held]:
        """Free slots that still hold tokens, least recently used first."""
        return self._held.items()

    def _next_free(self) -> int:
        if self._empty:
            return self._empty[0]
        return self._num_used if self._num_used < self.num_slots else next(iter(self._held))

    def _longest_prefix(self, wanted: list[int], in_use: Iterable[Held]) -> tuple[int, int]:
        """The slot that shares the longest prefix, and its length; (-1, 0) if none does."""
        best, longest = -1, 0
        for slot, tokens in (*self._held.items(), *in_use):
            num = common_prefix_len(wanted, tokens)
            if num > longest:
                best, longest = slot, num
        return best, longest


def common_prefix_len(some: list[int], others: list[int]) -> int:
    """Length of the common prefix, by binary search: comparing slices is fast."""
    low, high = 0, min(len(some), len(others))
    while low < high:
        middle = (low + high + 1) // 2
        if some[low:middle] == others[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
