"""Where the keys and values of a session lie in the cache. Pure bookkeeping, no tensors.

A *place* is an index into the tensors of ``KVCache``. Only the layout knows which places a slot's positions take:
a contiguous slot (``PrefixCache``) takes one run of places, a paged one (``Pages``) as many pages as it needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from adasd.engine.cache.layers import Windows

Held = tuple[int, list[int]]
"""A slot and the tokens whose keys and values it holds, from position 0."""


@dataclass(frozen=True, slots=True)
class SlotPlacement:
    """The slot of a new session, and how many of its first tokens are cached already."""

    slot: int
    num_cached: int = 0
    copy_from: int | None = None  # the slot that holds them; None: this slot


@dataclass(frozen=True, slots=True)
class PageCopy:
    """Copy all places of one page to another."""

    source: range
    target: range


class CacheLayout(Protocol):
    """Allocates slots and knows the places of their positions."""

    num_slots: int
    max_context: int  # most positions per slot
    num_places: int
    reuse: bool  # whether the contents of freed slots may be reused

    @property
    def page_size(self) -> int | None:
        """Places per page; None: slots are contiguous."""
        ...

    @property
    def num_blocks(self) -> int:
        """Pages, or slots where they are contiguous."""
        ...

    @property
    def num_used_blocks(self) -> int:
        """Those that slots in use hold."""
        ...

    def allocate(self, prompt: Sequence[int], in_use: Iterable[Held]) -> SlotPlacement:
        """A slot for a session that begins with ``prompt``; at least one slot must be free.

        The prompt's last token is never reused, as its logits are needed.
        """
        ...

    def extend(self, slot: int, start: int, end: int) -> Sequence[PageCopy] | None:
        """Make positions ``[start, end)`` writable, by this slot alone; what it held from ``start`` on is lost.

        Returns the copies that must be made before anything is written. None: there is no room.
        """
        ...

    @property
    def windows(self) -> Windows:
        """Of each table of pages: latest positions that a token sees, where what lies behind them may be given back."""
        ...

    def roll_back(self, slot: int, length: int) -> bool:
        """The slot goes on from this position. False: what a token there sees was given back."""
        ...

    def cut(self, slot: int, length: int) -> None:
        """Give back what only positions from ``length`` on need."""
        ...

    def free(self, slot: int, tokens: list[int]) -> None:
        """Release a slot; it still holds ``tokens``."""
        ...

    def runs(self, slot: int, start: int, end: int, table: int = 0) -> Sequence[range]:
        """The places of positions ``[start, end)``, in order; they must be held."""
        ...

    def owned(self, slot: int, start: int) -> Sequence[range]:
        """The places of positions from ``start`` on that no other slot shares."""
        ...

    def pages(self, slot: int, table: int = 0) -> Sequence[int]:
        """The slot's pages in order of position, ``NO_PAGE`` for those given back; empty where slots are contiguous."""
        ...

    def held(self) -> Iterable[Held]:
        """Free slots that still hold tokens."""
        ...

    def check_integrity(self) -> None:
        """Raise AssertionError if what it counts disagrees."""
        ...

    def __iter__(self) -> Iterator[int]:
        """Free slots."""
        ...
