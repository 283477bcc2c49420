"""Contiguous slots with prefix reuse. Pure bookkeeping, no tensors.

A slot keeps its keys and values after its session ends, until another session needs the slot. A prompt that shares a
prefix with such a slot does not compute the prefix again. Keys and values at a position depend only on the tokens up
to it, so comparing tokens is enough.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from adasd.engine.cache.free_slots import FreeSlots
from adasd.engine.cache.layout import Held, SlotPlacement

MIN_COPY = 8
"""A prefix that another slot holds is copied from this many tokens on; a shorter one is computed."""


class PrefixCache:
    """A ``CacheLayout`` of contiguous slots: slot s begins at place ``s * max_context``.

    Without ``reuse`` a slot is empty as soon as it is freed.
    """

    page_size = None
    windows = (None,)

    def __init__(self, num_slots: int, max_context: int, reuse: bool = False) -> None:
        self.num_slots, self.max_context, self.reuse = num_slots, max_context, reuse
        self.num_places = num_slots * max_context
        self.num_blocks = num_slots
        self.num_used_blocks = 0
        self._free = FreeSlots(num_slots)

    def __iter__(self) -> Iterator[int]:
        return iter(self._free)

    def allocate(self, prompt: Sequence[int], in_use: Iterable[Held]) -> SlotPlacement:
        """As the protocol says. A free slot is copied from, not taken over, if less than half of it would be reused:
        later prompts may reuse the rest."""
        self.num_used_blocks += 1
        free, held = self._free, self._free.held
        source, num_cached = free.longest_prefix(list(prompt[:-1]), in_use) if self.reuse else (-1, 0)
        slot = free.next()
        if source in held and (source == slot or 2 * num_cached >= len(held[source])):
            free.take(source)
            return SlotPlacement(source, num_cached)
        free.take(slot)
        if num_cached < MIN_COPY:
            return SlotPlacement(slot)
        free.touch(source)
        return SlotPlacement(slot, num_cached, source)

    def extend(self, slot: int, start: int, end: int) -> tuple[()]:
        """Every slot has room for the whole context."""
        assert end <= self.max_context, (slot, end)
        return ()

    def runs(self, slot: int, start: int, end: int, table: int = 0) -> tuple[range]:
        first = slot * self.max_context
        return (range(first + start, first + end),)

    def owned(self, slot: int, start: int) -> tuple[range]:
        return self.runs(slot, start, self.max_context)

    def roll_back(self, slot: int, length: int) -> bool:
        """Everything is held."""
        return True

    def cut(self, slot: int, length: int) -> None:
        """Nothing is given back."""

    def pages(self, slot: int, table: int = 0) -> tuple[()]:
        return ()

    def check_integrity(self) -> None:
        assert self.num_used_blocks == self.num_slots - len(list(self._free))

    def free(self, slot: int, tokens: list[int]) -> None:
        self.num_used_blocks -= 1
        self._free.put(slot, tokens if self.reuse else [])

    def held(self) -> Iterable[Held]:
        """Free slots that still hold tokens, least recently used first."""
        return self._free.held.items()
