"""Slots of the cache that no session owns, and what they still hold. Pure bookkeeping, no tensors.

A slot outlives its session: its keys and values stay until a session needs the slot, so that a prompt which
begins as a held text does is not computed again. Keys and values at a position depend on the tokens up to it
and on nothing else, so equal beginnings are all that has to be compared.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

MIN_COPY = 8
"""Tokens from which on a beginning that another slot holds is copied rather than computed."""

Held = tuple[int, list[int]]
"""A slot and the tokens whose keys and values it holds, from position 0."""


@dataclass(frozen=True, slots=True)
class SlotPlacement:
    """The slot of a new session, and how many of its first tokens need not be computed."""

    slot: int
    num_cached: int = 0
    copy_from: int | None = None  # the slot that holds them; None: this one does


class PrefixCache:
    """Free slots in the order in which they are taken: empty ones (lowest first), then the longest unused.

    With ``reuse`` off a slot is empty as soon as it is given back.
    """

    def __init__(self, num_slots: int, reuse: bool) -> None:
        self.reuse = reuse
        self._empty = list(range(num_slots))  # a heap
        self._held: dict[int, list[int]] = {}  # the longest unused first

    def __iter__(self) -> Iterator[int]:
        yield from self._empty
        yield from self._held

    def allocate(self, prompt: Sequence[int], in_use: Iterable[Held]) -> SlotPlacement:
        """A slot for a session that begins with ``prompt``; at least one slot must be free.

        The prompt's last token is never found, as its logits are wanted. A slot of which most would be
        overwritten is copied from instead, for those who may come back to the rest.
        """
        source, num_cached = self._longest_prefix(list(prompt[:-1]), in_use) if self.reuse else (-1, 0)
        next_free = self._empty[0] if self._empty else next(iter(self._held))
        if source in self._held and (source == next_free or 2 * num_cached >= len(self._held[source])):
            del self._held[source]
            return SlotPlacement(source, num_cached)
        if self._empty:
            heapq.heappop(self._empty)
        else:
            del self._held[next_free]
        if num_cached < MIN_COPY:
            return SlotPlacement(next_free)
        if source in self._held:  # used just now
            self._held[source] = self._held.pop(source)
        return SlotPlacement(next_free, num_cached, source)

    def free(self, slot: int, tokens: list[int]) -> None:
        """The slot is free and holds ``tokens``."""
        if tokens and self.reuse:
            self._held[slot] = tokens
        else:
            heapq.heappush(self._empty, slot)

    def held(self) -> Iterable[Held]:
        """Free slots that hold something, the longest unused first."""
        return self._held.items()

    def _longest_prefix(self, wanted: list[int], in_use: Iterable[Held]) -> tuple[int, int]:
        """The slot that shares the longest beginning, and its length; (-1, 0) if none does."""
        best, longest = -1, 0
        for slot, tokens in (*self._held.items(), *in_use):
            num = common_prefix_len(wanted, tokens)
            if num > longest:
                best, longest = slot, num
        return best, longest


def common_prefix_len(some: list[int], others: list[int]) -> int:
    """How many tokens two texts share from their beginning on. Halving, as slices compare quickly."""
    low, high = 0, min(len(some), len(others))
    while low < high:
        middle = (low + high + 1) // 2
        if some[low:middle] == others[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
