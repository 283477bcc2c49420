"""Which slots no session owns, and which tokens they still hold. Pure bookkeeping, no tensors."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence

from adasd.engine.cache.layout import Held


class FreeSlots:
    """Empty slots are taken first (lowest index first), then the least recently used of those that hold tokens."""

    def __init__(self, num_slots: int) -> None:
        self._num_slots = num_slots
        self._empty: list[int] = []  # heap of slots used before; slots from _num_used on were never used
        self._num_used = 0
        self.held: dict[int, list[int]] = {}  # slot -> its tokens, least recently used first

    def __iter__(self) -> Iterator[int]:
        yield from self._empty
        yield from range(self._num_used, self._num_slots)
        yield from self.held

    def next(self) -> int:
        """The slot that goes first; at least one must be free."""
        if self._empty:
            return self._empty[0]
        return self._num_used if self._num_used < self._num_slots else next(iter(self.held))

    def take(self, slot: int) -> None:
        """Take this slot: the next one, or one that holds tokens."""
        if slot in self.held:
            del self.held[slot]
        elif self._empty:
            assert heapq.heappop(self._empty) == slot, (slot, self._empty)
        else:
            assert slot == self._num_used, (slot, self._num_used)
            self._num_used += 1

    def put(self, slot: int, tokens: list[int]) -> None:
        """Release a slot that still holds these tokens, or none."""
        if tokens:
            self.held[slot] = tokens
        else:
            heapq.heappush(self._empty, slot)

    def touch(self, slot: int) -> None:
        """If the slot holds tokens, it counts as used just now."""
        if slot in self.held:
            self.held[slot] = self.held.pop(slot)

    def longest_prefix(
        self,
        wanted: list[int],
        in_use: Iterable[Held],
        usable: Callable[[int, int], bool] = lambda slot, length: True,
    ) -> tuple[int, int]:
        """The slot, free or in use, that shares the longest prefix, and its length; (-1, 0) if none does.

        ``usable`` says of a slot and a length whether that much of the slot can be used.
        """
        best, longest = -1, 0
        for slot, tokens in (*self.held.items(), *in_use):
            num = common_prefix_len(wanted, tokens)
            if num > longest and usable(slot, num):
                best, longest = slot, num
        return best, longest


def common_prefix_len(some: Sequence[int], others: Sequence[int]) -> int:
    """Length of the common prefix, by binary search: comparing slices is fast."""
    low, high = 0, min(len(some), len(others))
    while low < high:
        middle = (low + high + 1) // 2
        if some[low:middle] == others[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
